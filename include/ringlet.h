/* placeholder, replaced by the rings */
#ifndef RINGLET_H
#define RINGLET_H
#endif
