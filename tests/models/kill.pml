/*
 * Death at any step. A client submits REQUESTS requests and waits for their ends, sleeping as
 * ringlet_wait does (odd word, fence, second look, block on the pipe); the daemon answers and rings.
 * Either side may be killed between any two steps; the kernel then closes the pipe's write end (end
 * of file) or the socket (hang-up). A killed CPU's stores that were queued still reach memory.
 *
 * Shown: a living client ends with exactly one end for each request that it submitted, made up where
 * the daemon died; a living daemon ends with no request of a dead client. Nobody hangs.
 *
 *     words: 0 submissions published, 1 completions published, 2 client_wait
 */
#include "tso.inc"

#ifndef REQUESTS
#define REQUESTS 2
#endif
#define CLIENT 0
#define DAEMON 1

bool kill_client, kill_daemon, pipe_eof, socket_hup, bell, client_done;
byte ends;

proctype client()
{
    byte submitted = 0, seen = 0, epoch = 0, lost = 0;
    {
        do
        :: submitted < REQUESTS && !pipe_eof -> submitted++; STORE(CLIENT, 0, submitted)
        :: seen < mem[1] -> atomic { seen++; ends++; assert(seen <= submitted) }
        :: seen == mem[1] && submitted > seen -> /* nothing there: sleep */
            epoch = (epoch + 1) | 1;
            STORE(CLIENT, 2, epoch);
            FENCE(CLIENT);
            if
            :: seen == mem[1] ->
                if
                :: atomic { bell -> bell = false }
                :: pipe_eof && !bell ->
                    /* what was published before the death counts; the rest is lost */
                    if
                    :: seen < mem[1] -> skip
                    :: seen == mem[1] && empty(stores[DAEMON]) ->
                        atomic { lost = submitted - seen; ends = ends + lost };
                        break
                    fi
                fi
            :: else
            fi;
            epoch++;
            STORE(CLIENT, 2, epoch)
        :: submitted == seen && (submitted == REQUESTS || pipe_eof) -> break
        od;
        assert(ends == submitted);
        client_done = true
    } unless { kill_client };
    if
    :: kill_client -> socket_hup = true
    :: else
    fi
}

proctype daemon()
{
    byte taken = 0, done = 0, last = 0, word;
    {
        do
        :: !socket_hup && taken < mem[0] -> taken++
        :: !socket_hup && done < taken ->
            done++;
            STORE(DAEMON, 1, done);
            FENCE(DAEMON);
            word = mem[2];
            if
            :: (word & 1) && word != last -> last = word; bell = true
            :: else
            fi
        :: socket_hup -> taken = done; break /* all of the session's requests are cancelled */
        :: client_done -> break
        od;
        assert(taken == done)
    } unless { kill_daemon };
    if
    :: kill_daemon -> pipe_eof = true
    :: else -> pipe_eof = true /* its end closes the pipe too */
    fi
}

proctype killer()
{
    if
    :: kill_client = true
    :: kill_daemon = true
    :: skip
    fi
}

init
{
    atomic {
        run store_queue(CLIENT);
        run store_queue(DAEMON);
        run client();
        run daemon();
        run killer()
    }
}
