/*
 * Planted bugs: BUG(n) is 0 in every product build. The simulator is also built with
 * RINGLET_PLANTED, where one of them at a time is real, to prove that it would be caught.
 */
#ifndef RINGLET_BASE_PLANTED_H
#define RINGLET_BASE_PLANTED_H

#ifdef RINGLET_PLANTED
extern int planted_bug;
#define BUG(n) (planted_bug == (n))
#else
#define BUG(n) 0
#endif

#endif
