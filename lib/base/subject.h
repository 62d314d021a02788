/* subject.h: whose certificates were refused lately. A failure travels in 64 bits, from thread to
 * thread and to all who wait, so the name stays here and the failure carries its number.
 *
 * A few are kept. A name that is gone, or that somebody writes at this very moment, is left out of
 * the sentence; nobody waits for anybody, so a fork at any moment does no harm. */
#ifndef PL_BASE_SUBJECT_H
#define PL_BASE_SUBJECT_H

#include <stdint.h>

#define PL_SUBJECT 80 /* bytes of a name that are kept, with the zero byte */

/* 1 to 1023; 0: not kept. */
uint16_t pl_subject_note(const char *name);

/* Fills `name`, of PL_SUBJECT bytes; empty when there is none. */
void pl_subject_find(uint16_t number, char *name);

#endif
