/* The main function of every unit test, and where its data is. */
#ifndef SPIN_TESTS_CHECK_MAIN_H
#define SPIN_TESTS_CHECK_MAIN_H

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Path below the shared data folder, or NULL (with a message) where it is absent: skip then. */
__attribute__((unused)) static const char *shared_data(const char *relative)
{
    static char path[4096];
    const char *root = getenv("SPIN_SHARED_DATA");
    snprintf(path, sizeof(path), "%s/%s", root ? root : SPIN_SOURCE_ROOT "/../shared/data",
             relative);
    if (access(path, R_OK) == 0)
        return path;
    fprintf(stderr, "skipped: no %s\n", path);
    return NULL;
}

#define SPIN_CHECK_MAIN(suite)                                                                     \
    int main(void)                                                                                 \
    {                                                                                              \
        SRunner *runner = srunner_create(suite);                                                   \
        srunner_run_all(runner, CK_ENV);                                                           \
        int failed = srunner_ntests_failed(runner);                                                \
        srunner_free(runner);                                                                      \
        return failed == 0 ? 0 : 1;                                                                \
    }

#endif
