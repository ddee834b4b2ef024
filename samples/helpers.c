// SPDX-License-Identifier: GPL-2.0
/* A module has its own copy of what ext/ needs of C. */

#include "../rust/ext/helpers.c"
