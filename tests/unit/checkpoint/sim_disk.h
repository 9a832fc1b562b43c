/* sim_disk: a disk in memory under the blob store, that keeps apart what a program sees and what
 * would be there after a power loss.
 *
 * A file's bytes are certain from its fsync on, a name from the fsync of its directory on. At a
 * power loss each uncertain name is there or not, each uncertain file is whole, cut, or holds
 * garbage, all drawn from the seed. Operations fail with EIO or ENOSPC at a given rate, and the
 * power goes at a given operation: from then on every one fails with -ESHUTDOWN. */
#ifndef SPIN_TESTS_CHECKPOINT_SIM_DISK_H
#define SPIN_TESTS_CHECKPOINT_SIM_DISK_H

#include <stdbool.h>
#include <stdint.h>

#include "common/checkpoint/file_ops.h"

struct sim_disk;

struct sim_disk *sim_disk_new(uint64_t seed);
void sim_disk_free(struct sim_disk *disk);
const struct ckpt_fs *sim_disk_fs(struct sim_disk *disk);
/* 0: never; n: one operation of n fails. */
void sim_disk_set_fault_rate(struct sim_disk *disk, uint32_t one_of);
/* The power goes after so many more operations. */
void sim_disk_power_off_after(struct sim_disk *disk, uint64_t operations);
bool sim_disk_is_off(const struct sim_disk *disk);
/* Loses what is uncertain and turns the power on. */
void sim_disk_restart(struct sim_disk *disk);
/* Spoils one byte of a file that a program sees. */
void sim_disk_flip(struct sim_disk *disk, const char *path);
/* A disk that lies: fsync of files (or directories) does nothing. For the test of the test. */
void sim_disk_ignore_fsync(struct sim_disk *disk, bool files, bool directories);

#endif
