/* try: passes a failure on to the caller, for functions that have nothing to release. */
#ifndef SPIN_COORDINATOR_TRY_H
#define SPIN_COORDINATOR_TRY_H

#define SP_TRY(call)                                                                               \
    do {                                                                                           \
        enum sp_err try_result_ = (call);                                                          \
        if (try_result_)                                                                           \
            return try_result_;                                                                    \
    } while (0)

#endif
