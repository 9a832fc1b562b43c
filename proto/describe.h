/* describe: the table of messages as Markdown, for docs/protocol.md. Any thread. */
#ifndef SPIN_PROTO_DESCRIBE_H
#define SPIN_PROTO_DESCRIBE_H

#include "common/base/buf.h"

/* One section for each request with its reply, then one for each item of a list. */
void proto_describe_messages(struct sp_buf *out);

#endif
