/* ucontext begins a task, setjmp switches: no system call for a switch. */
#include "tests/sim/sim_task.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "base/compiler.h"

enum { STACK_BYTES = 256 << 10 };

struct task {
    char *stack;
    void (*fn)(void *arg);
    void *arg;
    bool begun, done;
    jmp_buf here;
};

static struct task tasks[TASKS_MAX];
static jmp_buf outside;
static int current = -1;

int task_current(void)
{
    return current;
}

static void enter(void)
{
    struct task *t = &tasks[current];
    t->fn(t->arg);
    t->done = true;
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
    t->fn = fn;
    t->arg = arg;
    t->begun = t->done = false;
}

static noinline_fn void begin(struct task *t)
{
    ucontext_t start;
    getcontext(&start);
    start.uc_stack.ss_sp = t->stack;
    start.uc_stack.ss_size = STACK_BYTES;
    start.uc_link = NULL;
    makecontext(&start, enter, 0);
    setcontext(&start);
}

bool task_run(int task_i)
{
    struct task *t = &tasks[task_i];
    current = task_i;
    if (_setjmp(outside) == 0) {
        if (t->begun)
            _longjmp(t->here, 1);
        t->begun = true;
        begin(t);
    }
    current = -1;
    return !tasks[task_i].done;
}

void task_yield(void)
{
    if (_setjmp(tasks[current].here) == 0)
        _longjmp(outside, 1);
}
