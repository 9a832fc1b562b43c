/* Files with secrets. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/base/fs.h"
#include "common/base/mem.h"

#define CREDENTIAL "credential:"

static enum sp_err credential_path(const char *name, char **ret, struct sp_error *err)
{
    const char *dir = getenv("CREDENTIALS_DIRECTORY");
    if (name[0] == '\0' || strchr(name, '/') || name[0] == '.')
        return sp_fail(err, SP_EINVAL, "credential:%.80s: not the name of a credential", name);
    if (!dir || dir[0] == '\0')
        return sp_fail(err, SP_ENOTFOUND,
                       "credential:%.80s: CREDENTIALS_DIRECTORY is not set: give "
                       "LoadCredential= in the unit",
                       name);
    *ret = sp_path_join(dir, name);
    return SP_OK;
}

enum sp_err sp_secret_path(const char *path, char **ret, struct sp_error *err)
{
    struct stat info;
    if (strncmp(path, CREDENTIAL, strlen(CREDENTIAL)) == 0)
        return credential_path(path + strlen(CREDENTIAL), ret, err);
    if (stat(path, &info) != 0)
        return sp_fail_errno(err, errno, "%s", path);
    if (S_ISREG(info.st_mode) && (info.st_mode & 077) != 0)
        return sp_fail(err, SP_EDENIED,
                       "%s: mode %04o: its group or others may read this secret: chmod 600 %s",
                       path, (unsigned)info.st_mode & 07777, path);
    *ret = sp_xstrdup(path);
    return SP_OK;
}

enum sp_err sp_read_secret(const char *path, size_t max_bytes, char **ret_data, size_t *ret_length,
                           struct sp_error *err)
{
    char *real = NULL;
    enum sp_err rc = sp_secret_path(path, &real, err);
    if (rc == SP_OK)
        rc = sp_read_file(real, max_bytes, ret_data, ret_length, err);
    free(real);
    return rc;
}
