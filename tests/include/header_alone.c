/*
 * Compiled as C99, C11, C++98 and C++17 with every warning an error: the public header stands
 * alone.
 */
#include "ringlet.h"

int main(void)
{
    struct ringlet_request req;
    struct ringlet_options options;
    struct ringlet_client *cl = NULL;
    ringlet_request_init(&req);
    ringlet_options_init(&options);
    options.socket_path = "/nonexistent";
    req.text = "x";
    req.text_bytes = 1;
    if (req.struct_size != sizeof(req) || req.urgency != 128 || ringlet_stat_bucket(4) != 4)
        return 1;
    return ringlet_connect(&options, &cl) < 0 && cl == NULL ? 0 : 1;
}
