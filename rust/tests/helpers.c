// SPDX-License-Identifier: GPL-2.0
/* A module has its own copy of what ext/ needs of C. */

#include "../ext/helpers.c"
