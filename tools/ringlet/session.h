/* Connecting: to a daemon that runs, or to a private one for the length of the command. */
#ifndef RINGLET_TOOLS_RINGLET_SESSION_H
#define RINGLET_TOOLS_RINGLET_SESSION_H

#include <sys/types.h>

#include "tools/ringlet/tool.h"

struct session {
    struct ringlet_client *client;
    struct ringlet_model_info model;
    pid_t pid; /* of the private daemon; 0: none */
    int log;   /* what it prints */
    char folder[64], socket[96];
};

/*
 * Connect and find the model.
 *
 *   socket       NULL: the default place, or a private daemon if model is a path
 *   model        NULL: the first that is ready
 *   text_bytes   how much prompt one request may have; the arenas are made for it
 *
 * Returns: 0, or an exit status after saying what is wrong.
 */
int session_open(struct session *s, const char *socket, const char *model, size_t text_bytes);

/* Where a daemon is looked for without --socket. Returns path. */
const char *session_default_socket(char *path, size_t bytes);

/* Says why the daemon is gone. Returns the exit status. */
int session_lost(struct session *s, int error);

/* Ends the session and its private daemon. */
void session_close(struct session *s);

#endif
