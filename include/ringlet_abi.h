/* placeholder, replaced by the rings */
#ifndef RINGLET_ABI_H
#define RINGLET_ABI_H
#endif
