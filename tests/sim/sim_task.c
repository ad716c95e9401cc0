/* ucontext begins a task, setjmp switches: no system call for a switch. */
#include "tests/sim/sim_task.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "base/compiler.h"

/* AddressSanitizer must be told which stack is in use. */
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define leave_stack(save, to, bytes) __sanitizer_start_switch_fiber(save, to, bytes)
#define come_from(save, from, bytes) __sanitizer_finish_switch_fiber(save, from, bytes)
#define no_asan                      __attribute__((no_sanitize("address")))
#else
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define leave_stack(save, to, bytes)      ((void)(save), (void)(to), (void)(bytes))
#define come_from(save, from, bytes)      ((void)(save), (void)(from), (void)(bytes))
#define no_asan
#endif

enum { STACK_BYTES = 256 << 10 };

struct task {
    char *stack;
    void (*fn)(void *arg);
    void *arg;
    bool begun, done;
    jmp_buf here;
    void *fake; /* AddressSanitizer's */
};

static struct task tasks[TASKS_MAX];
static jmp_buf outside;
static int current = -1;
static const void *outside_stack;
static size_t outside_bytes;

int task_current(void)
{
    return current;
}

static void enter(void)
{
    struct task *t = &tasks[current];
    come_from(NULL, &outside_stack, &outside_bytes);
    t->fn(t->arg);
    t->done = true;
    leave_stack(NULL, outside_stack, outside_bytes);
    _longjmp(outside, 1);
}

void task_start(int task_i, void (*fn)(void *arg), void *arg)
{
    struct task *t = &tasks[task_i];
    if (!t->stack) {
        t->stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (t->stack == MAP_FAILED) {
            perror("sim: stack");
            exit(2);
        }
    }
    ASAN_UNPOISON_MEMORY_REGION(t->stack, STACK_BYTES); /* frames of one that was left half-way */
    t->fn = fn;
    t->arg = arg;
    t->begun = t->done = false;
}

static noinline_fn no_asan void begin(struct task *t)
{
    ucontext_t start;
    getcontext(&start);
    start.uc_stack.ss_sp = t->stack;
    start.uc_stack.ss_size = STACK_BYTES;
    start.uc_link = NULL;
    makecontext(&start, enter, 0);
    setcontext(&start);
}

no_asan bool task_run(int task_i)
{
    static void *fake;
    struct task *t = &tasks[task_i];
    current = task_i;
    leave_stack(&fake, t->stack, STACK_BYTES);
    if (_setjmp(outside) == 0) {
        if (t->begun)
            _longjmp(t->here, 1);
        t->begun = true;
        begin(t);
    }
    come_from(fake, NULL, NULL);
    current = -1;
    return !tasks[task_i].done;
}

void task_yield(void)
{
    leave_stack(&tasks[current].fake, outside_stack, outside_bytes);
    if (_setjmp(tasks[current].here) == 0)
        _longjmp(outside, 1);
    come_from(tasks[current].fake, &outside_stack, &outside_bytes);
}
