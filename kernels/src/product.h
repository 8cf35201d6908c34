// Dense products of tiles.
#pragma once
#include "kernel.h"
