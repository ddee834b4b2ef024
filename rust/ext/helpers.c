// SPDX-License-Identifier: GPL-2.0
/* Functions for what the kernel's headers offer inline only. */

#include "helpers.h"
