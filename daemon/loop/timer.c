/*
 * Level l covers 64^(l+1) ticks; a slot of level l > 0 is spread over the levels below when the
 * wheel reaches it. Only slots marked in `occupied` are looked at.
 */
#include "daemon/loop/timer.h"

#include "base/assert.h"

enum { SLOT_BITS = 6 };

void timer_wheel_init(struct timer_wheel *wheel, uint64_t now_ns)
{
    wheel->tick = now_ns >> TIMER_TICK_LOG2;
    for (int level = 0; level < TIMER_LEVELS; level++) {
        wheel->occupied[level] = 0;
        for (int slot = 0; slot < TIMER_SLOTS; slot++)
            list_init(&wheel->slot[level][slot]);
    }
}

void timer_init(struct timer *t, void (*fn)(struct timer *t, uint64_t now_ns))
{
    *t = (struct timer){ .fn = fn };
    list_init(&t->node);
}

bool timer_is_set(const struct timer *t)
{
    return !list_empty(&t->node);
}

void timer_drop(struct timer_wheel *wheel, struct timer *t)
{
    if (!timer_is_set(t))
        return;
    list_remove(&t->node);
    if (list_empty(&wheel->slot[t->level][t->slot]))
        wheel->occupied[t->level] &= ~(UINT64_C(1) << t->slot);
}

/* Put a timer where its tick belongs, seen from the wheel's present tick. */
static void place(struct timer_wheel *wheel, struct timer *t)
{
    uint64_t due =
        (t->when_ns >> TIMER_TICK_LOG2) + ((t->when_ns & ((1u << TIMER_TICK_LOG2) - 1)) != 0);
    uint64_t tick = due > wheel->tick ? due : wheel->tick + 1;
    uint64_t ahead = tick - wheel->tick;
    uint64_t most = (UINT64_C(1) << (SLOT_BITS * TIMER_LEVELS)) - 1;
    if (ahead > most) /* spread again when its turn comes */
        tick = wheel->tick + most, ahead = most;
    int level = 0;
    while (ahead >= UINT64_C(1) << (SLOT_BITS * (level + 1)))
        level++;
    t->level = (uint8_t)level;
    t->slot = (tick >> (SLOT_BITS * level)) & (TIMER_SLOTS - 1);
    wheel->occupied[level] |= UINT64_C(1) << t->slot;
    list_push_back(&wheel->slot[level][t->slot], &t->node);
}

void timer_set(struct timer_wheel *wheel, struct timer *t, uint64_t when_ns)
{
    timer_drop(wheel, t);
    t->when_ns = when_ns;
    place(wheel, t);
}

/* The next tick at which a slot is due or must be spread; UINT64_MAX: nothing is set. */
static uint64_t next_tick(const struct timer_wheel *wheel)
{
    uint64_t best = UINT64_MAX;
    for (int level = 0; level < TIMER_LEVELS; level++) {
        if (!wheel->occupied[level])
            continue;
        uint64_t now = wheel->tick >> (SLOT_BITS * level);
        unsigned at = (unsigned)(now + 1) & (TIMER_SLOTS - 1);
        uint64_t turned =
            wheel->occupied[level] >> at | (at ? wheel->occupied[level] << (64 - at) : 0);
        uint64_t tick = (now + 1 + (unsigned)__builtin_ctzll(turned)) << (SLOT_BITS * level);
        if (tick < best)
            best = tick;
    }
    return best;
}

uint64_t timer_next_ns(const struct timer_wheel *wheel)
{
    uint64_t tick = next_tick(wheel);
    return tick == UINT64_MAX ? UINT64_MAX : tick << TIMER_TICK_LOG2;
}

/* The wheel stands at a new tick: spread higher slots down, then fire level 0's. */
static int turn(struct timer_wheel *wheel, uint64_t now_ns)
{
    int n_fired = 0;
    struct list due;
    list_init(&due);
    for (int level = TIMER_LEVELS - 1; level >= 0; level--) {
        if (level > 0 && wheel->tick & ((UINT64_C(1) << (SLOT_BITS * level)) - 1))
            continue;
        unsigned slot = (wheel->tick >> (SLOT_BITS * level)) & (TIMER_SLOTS - 1);
        struct list *head = &wheel->slot[level][slot];
        wheel->occupied[level] &= ~(UINT64_C(1) << slot);
        list_for_each_safe (node, head) {
            struct timer *t = list_entry(node, struct timer, node);
            list_remove(node);
            if (t->when_ns <= wheel->tick << TIMER_TICK_LOG2)
                list_push_back(&due, node);
            else
                place(wheel, t);
        }
    }
    while (!list_empty(&due)) {
        struct timer *t = list_first(&due, struct timer, node);
        list_remove(&t->node);
        t->fn(t, now_ns);
        n_fired++;
    }
    return n_fired;
}

int timer_expire(struct timer_wheel *wheel, uint64_t now_ns)
{
    uint64_t now = now_ns >> TIMER_TICK_LOG2;
    int n_fired = 0;
    while (wheel->tick < now) {
        uint64_t tick = next_tick(wheel);
        if (tick > now) {
            wheel->tick = now;
            break;
        }
        wheel->tick = tick;
        n_fired += turn(wheel, now_ns);
    }
    return n_fired;
}
