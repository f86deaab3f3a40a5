"""The program ``kvs``, which is ``python -m kvs``, too.

Its first lines load next to nothing, and neither does the package: until its parts are there, which
takes some hundredths of a second, a Ctrl-C ends the process in silence. What Python does before it
comes to them is Python's.
"""

import gc
import signal
import sys

from kvs.posix.linux import require_linux


def main() -> int:
    """Run the program with the arguments of the process; return its exit status."""
    try:
        require_linux()
    except ImportError as error:
        sys.exit(str(error))
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.disable()  # all that is loaded stays
    from kvs.cli import main as program

    gc.freeze()
    gc.enable()
    return program()


if __name__ == "__main__":
    sys.exit(main())
