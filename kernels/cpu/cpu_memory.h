/*
 * Memory of the CPU device: mappings of their own, in huge pages where they pay, zeroed by the
 * kernel at the first touch of each page. What is big and used in any order can be made present in
 * the background instead, since a page of 2 MB costs some 300 us in the middle of a step.
 */
#ifndef RINGLET_KERNELS_CPU_MEMORY_H
#define RINGLET_KERNELS_CPU_MEMORY_H

#include <stddef.h>
#include <stdint.h>

struct cpu_memory {
    struct cpu_allocation *first; /* all that are not free yet */
};

/* Zeroed, 64-byte aligned. NULL: out of memory. */
void *cpu_memory_alloc(struct cpu_memory *memory, size_t bytes);
/* p may be NULL. */
void cpu_memory_free(struct cpu_memory *memory, void *p);
void cpu_memory_free_all(struct cpu_memory *memory);

/*
 * Make an allocation present, by a thread of its own that begins when start-up is over and takes a
 * fifth of a core until it is done (a second for a gigabyte). Does nothing for a small one, for one
 * that is more than half of what is available, and on kernels before 5.14. Ends with the memory.
 */
void cpu_memory_settle(void *p);

/*
 * Bytes that this process could still take: free pages, or less if its memory cgroup (either
 * version), or one above it, has less left. 0: not known.
 */
uint64_t cpu_memory_available(void);
/* The same with the file that names the cgroups and the folder that they are mounted on. */
uint64_t cpu_memory_left_of_cgroups(const char *list, const char *mount);

#endif
