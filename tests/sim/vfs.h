/* vfs: an SQLite VFS whose disk can lose power.
 *
 * Real files hold what is certain; what was written since a file's last sync is kept in memory. At
 * a power loss each write that was not synced is kept, lost, or torn into pieces of 512 bytes of
 * which some are there; a file whose directory was never synced may be gone, and one that was
 * deleted without such a sync may be back. All of it is drawn from the seed. Locks and shared
 * memory are the real VFS's. One thread. */
#ifndef SPIN_TESTS_SIM_VFS_H
#define SPIN_TESTS_SIM_VFS_H

#include <stdbool.h>
#include <stdint.h>

struct sim_vfs;

/* Registered with SQLite under sim_vfs_name until free. */
struct sim_vfs *sim_vfs_new(uint64_t seed);
void sim_vfs_free(struct sim_vfs *vfs); /* all files must be closed */
const char *sim_vfs_name(const struct sim_vfs *vfs);
/* The power goes in the middle of the operation (write, truncate, sync, delete) after so many more;
 * from then on every one fails. */
void sim_vfs_power_off_after(struct sim_vfs *vfs, uint64_t operations);
void sim_vfs_power_off(struct sim_vfs *vfs);
bool sim_vfs_is_off(const struct sim_vfs *vfs);
/* Loses what is uncertain and turns the power on. All files must be closed. */
void sim_vfs_restart(struct sim_vfs *vfs);
/* The process has died (power_off), the machine has not: everything written is there. */
void sim_vfs_revive(struct sim_vfs *vfs);
/* A disk in trouble, until it is told otherwise. */
enum sim_vfs_trouble { SIM_VFS_WELL, SIM_VFS_FULL, SIM_VFS_SYNC_FAILS };
void sim_vfs_set_trouble(struct sim_vfs *vfs, enum sim_vfs_trouble trouble);
uint64_t sim_vfs_operations(const struct sim_vfs *vfs); /* so far */
uint64_t sim_vfs_lost(const struct sim_vfs *vfs);       /* writes lost or torn so far */
/* A disk that lies: sync does nothing. For the test of the test. */
void sim_vfs_ignore_sync(struct sim_vfs *vfs, bool ignore);

#endif
