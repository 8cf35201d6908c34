"""All cases."""

import coders  # noqa: F401
import dits  # noqa: F401
import unets  # noqa: F401
import variants  # noqa: F401
from case import CASES  # noqa: F401
