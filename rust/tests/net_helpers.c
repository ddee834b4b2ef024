// SPDX-License-Identifier: GPL-2.0
/* A module has its own copy of what ext/net needs of C. */

#include "../ext/net/helpers.c"
#include "../ext/net/device_helpers.c"
