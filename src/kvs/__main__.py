"""The program ``kvs``, also ``python -m kvs``.

This module and the package load next to nothing, so that a Ctrl-C during the load of the other
modules, some hundredths of a second, ends the process without a traceback. A Ctrl-C before this
module runs is handled by Python.
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
    gc.disable()  # loaded modules are never freed
    from kvs.cli import main as program

    gc.freeze()
    gc.enable()
    return program()


if __name__ == "__main__":
    sys.exit(main())
