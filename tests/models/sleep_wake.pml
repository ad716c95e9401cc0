/*
 * Sleep and wake of the loop with two sessions (shm/doorbell.h), or one (ENTRIES1 = 0): client 0
 * publishes ENTRIES entries, client 1 ENTRIES1, and each rings if its session's daemon_wait is odd;
 * the loop makes both words odd, fences once, looks at both rings again, and blocks until a bell. A
 * lost wake-up is an invalid end state: the loop blocked for ever with an entry unread.
 *
 *     words: 0, 1 publication of client 0, 1;  2, 3 daemon_wait of session 0, 1
 */
#include "tso.inc"

#ifndef ENTRIES
#define ENTRIES 2
#endif
#ifndef ENTRIES1
#define ENTRIES1 ENTRIES
#endif
#define LOOP 2 /* its CPU */

bool bell[2]; /* an edge that io_uring holds for the loop */
byte bells_rung[2];

proctype client(byte me)
{
    byte n = 0, last = 0, word, most = (me == 0 -> ENTRIES : ENTRIES1);
    do
    :: n < most ->
        n++;
        STORE(me, me, n);           /* ring_writer_put */
        if
        :: n < most -> skip         /* the batch goes on: no fence yet */
        :: true ->
            FENCE(me);              /* pairs with the loop's */
            word = mem[2 + me];
            if
            :: (word & 1) && word != last -> /* wait_watch_must_ring */
                last = word;
                atomic { bell[me] = true; bells_rung[me]++ }
            :: else
            fi
        fi
    :: n == most -> break
    od
}

proctype loop()
{
    byte seen[2], epoch[2];
again:
    seen[0] = mem[0];
    seen[1] = mem[1];
    if
    :: seen[0] == ENTRIES && seen[1] == ENTRIES1 -> goto done
    :: else
    fi;
    if
    :: goto again /* spins on */
    :: skip       /* the spin budget is used up */
    fi;
    epoch[0] = (epoch[0] + 1) | 1;
    epoch[1] = (epoch[1] + 1) | 1;
    STORE(LOOP, 2, epoch[0]);
    STORE(LOOP, 3, epoch[1]);
    FENCE(LOOP); /* pairs with the clients' */
    if
    :: mem[0] == seen[0] && mem[1] == seen[1] ->
        atomic { (bell[0] || bell[1]) -> bell[0] = false; bell[1] = false } /* blocks */
    :: else
    fi;
    epoch[0]++;
    epoch[1]++;
    STORE(LOOP, 2, epoch[0]);
    STORE(LOOP, 3, epoch[1]);
    goto again;
done:
    assert(bells_rung[0] <= ENTRIES && bells_rung[1] <= ENTRIES)
}

init
{
    atomic {
        run store_queue(0);
        run store_queue(1);
        run store_queue(LOOP);
        run client(0);
        run client(1);
        run loop()
    }
}
