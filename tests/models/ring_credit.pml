/*
 * One session's rings over the wrap: S = 2 request slots, 4 completion entries here (2 S, tighter than
 * the product's 4 S), running numbers mod 16 that start at 13. The client submits REQUESTS requests,
 * may cancel each, consumes late, and tells cq_head lazily: after S events, when credit_wait is odd,
 * or before it would sleep. The daemon reserves an entry for each END, posts TOKENS events only with
 * free credit, and without any makes credit_wait odd, fences, looks again and sleeps until a bell.
 *
 * Shown: an END can always be posted; nothing unread is overwritten; each request has exactly one
 * END and no event after it; a stale cancel hits nobody; no credit is lost: nobody blocks for ever.
 *
 *     words: 0 cq_head (client), 1 credit_wait (daemon)
 */
#include "tso.inc"

#ifndef REQUESTS
#define REQUESTS 3
#endif
#define S 2
#define N 4
#define TOKENS 3 /* events of a request before its END */
#define START 13
#define MOD(x) ((x) & 15)
#define CLIENT 0
#define DAEMON 1

byte sq_tail = START, sq_head = START; /* publication words taken together; both plain: they only
                                          ever delay (ring order is checked by seq below) */
byte sq_slot[S], sq_generation[S], sq_seq[S];
byte cq_seq[N], cq_slot[N], cq_generation[N];
bool cq_end[N];
byte cancel[S];
bool up_bell;          /* credit bell */
bool client_may_sleep; /* the client waits in ringlet_wait: a down bell or an entry wakes it */
byte generation[S];    /* client's */
bool open_slot[S];
byte ends, submitted;

inline tell_head()
{
    STORE(CLIENT, 0, head);
    told = head;
    FENCE(CLIENT); /* pairs with the daemon's fence after credit_wait */
    word = mem[1];
    if
    :: (word & 1) && word != last -> last = word; up_bell = true
    :: else
    fi
}

proctype client()
{
    byte head = START, told = START, word, last = 0, i, slot;
    do
    :: submitted < REQUESTS && MOD(sq_tail - sq_head) < S && (!open_slot[0] || !open_slot[1]) ->
        slot = (open_slot[0] -> 1 : 0);
        atomic {
            generation[slot]++;
            open_slot[slot] = true;
            i = sq_tail % S;
            sq_slot[i] = slot;
            sq_generation[i] = generation[slot];
            sq_tail = MOD(sq_tail + 1);
            sq_seq[i] = sq_tail;
            submitted++
        }
    :: open_slot[0] && cancel[0] != generation[0] -> cancel[0] = generation[0]
    :: cq_seq[head % N] == MOD(head + 1) -> /* an event */
        i = head % N;
        slot = cq_slot[i];
        assert(open_slot[slot] && cq_generation[i] == generation[slot]);
        if
        :: cq_end[i] -> atomic { open_slot[slot] = false; ends++ }
        :: else
        fi;
        head = MOD(head + 1);
        if
        :: MOD(head - told) >= S -> tell_head()
        :: else
        fi
    :: cq_seq[head % N] != MOD(head + 1) && (mem[1] & 1) && told != head -> tell_head()
    :: cq_seq[head % N] != MOD(head + 1) && (open_slot[0] || open_slot[1]) -> /* sleep */
        if
        :: told != head -> tell_head()
        :: else
        fi;
        (cq_seq[head % N] == MOD(head + 1) || (submitted < REQUESTS && !(open_slot[0] && open_slot[1])))
    :: ends == REQUESTS -> break
    od;
    client_may_sleep = true
}

#define FREE MOD(N - MOD(tail - head))

inline post(is_end)
{
    assert(FREE > 0);
    i = tail % N;
    /* The entry that lay here was consumed: the client's cursor is past it. */
    cq_slot[i] = slot;
    cq_generation[i] = at_generation[slot];
    cq_end[i] = is_end;
    tail = MOD(tail + 1);
    cq_seq[i] = tail
}

proctype daemon()
{
    byte tail = START, head = START, taken = START, i, slot, reserved = 0, epoch = 0, served = 0;
    byte at_generation[S], owed[S];
    bool busy[S], starved;
    do
    :: served == REQUESTS -> break
    :: else ->
        starved = false;
        /* intake: no entry without a completion entry for its END */
        if
        :: sq_seq[taken % S] == MOD(taken + 1) && FREE - reserved > 0 ->
            atomic {
                i = taken % S;
                slot = sq_slot[i];
                assert(!busy[slot]);
                busy[slot] = true;
                at_generation[slot] = sq_generation[i];
                owed[slot] = TOKENS;
                reserved++;
                taken = MOD(taken + 1);
                sq_head = taken
            }
        :: sq_seq[taken % S] == MOD(taken + 1) && FREE - reserved == 0 -> starved = true
        :: sq_seq[taken % S] != MOD(taken + 1)
        fi;
        slot = 0;
        do
        :: slot < S && busy[slot] && cancel[slot] == at_generation[slot] ->
            owed[slot] = 0;
            post(true);
            busy[slot] = false;
            reserved--;
            served++;
            slot++
        :: slot < S && busy[slot] && cancel[slot] != at_generation[slot] && owed[slot] == 0 ->
            post(true);
            busy[slot] = false;
            reserved--;
            served++;
            slot++
        :: slot < S && busy[slot] && cancel[slot] != at_generation[slot] && owed[slot] > 0 ->
            if
            :: FREE - reserved > 0 -> post(false); owed[slot]--
            :: else -> starved = true
            fi;
            slot++
        :: slot < S && !busy[slot] -> slot++
        :: slot == S -> break
        od;
        slot = 0;
        if
        :: starved ->
            head = mem[0]; /* a plain look first */
            if
            :: FREE - reserved == 0 ->
                epoch = (epoch + 1) | 1; /* a new epoch at each sleep */
                STORE(DAEMON, 1, epoch);
                FENCE(DAEMON); /* pairs with the client's fence in tell_head */
                head = mem[0];
                if
                :: FREE - reserved == 0 -> atomic { up_bell -> up_bell = false }
                :: else
                fi;
                head = mem[0];
                if
                :: FREE - reserved > 0 -> epoch = (epoch + 1) & 14; STORE(DAEMON, 1, epoch)
                :: else
                fi
            :: else
            fi
        :: else -> /* nothing to do: wait for an entry or a cancel (sleep_wake.pml's matter) */
            (sq_seq[taken % S] == MOD(taken + 1) || busy[0] || busy[1] || served == REQUESTS)
        fi
    od
}

/* Nothing unread may be overwritten: the entry at the client's head, once published, stays. */
init
{
    atomic {
        mem[0] = START;
        /* ring_format: every slot holds the number that a lap before would have left. Without it a
         * fresh zero reads as published where the numbers wrap. */
        cq_seq[START % N] = MOD(START + 1 - N);
        cq_seq[(START + 1) % N] = MOD(START + 2 - N);
        cq_seq[(START + 2) % N] = MOD(START + 3 - N);
        cq_seq[(START + 3) % N] = MOD(START + 4 - N);
        sq_seq[START % S] = MOD(START + 1 - S);
        sq_seq[(START + 1) % S] = MOD(START + 2 - S);
        run store_queue(CLIENT);
        run store_queue(DAEMON);
        run client();
        run daemon()
    }
    (client_may_sleep && ends == REQUESTS)
}
