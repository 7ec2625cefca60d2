"""`python -m prefloop.engine`: the model server as a process of its own. Exit code 2 for what the user can mend."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from prefloop.engine.serve import serve
from prefloop.errors import UserError


def main() -> int:
    """Reads the arguments and serves."""
    parser = argparse.ArgumentParser(prog="python -m prefloop.engine", description=__doc__)
    parser.add_argument("--manifest", type=Path, required=True, help="JSON list of snapshots")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes any free one")
    parser.add_argument("--threads", type=int, help="CPU threads of a forward pass")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda ...")
    parser.add_argument("--max-rows", type=int, default=128, help="replies decoded at once by one model")
    parser.add_argument("--weights-folder", type=Path, help="a PPO run elsewhere may load weights from below it")
    parser.add_argument("--child", action="store_true", help="end when standard input ends")
    options = parser.parse_args()
    try:
        serve(
            options.manifest,
            host=options.host,
            port=options.port,
            threads=options.threads,
            device=options.device,
            max_rows=options.max_rows,
            weights_folder=options.weights_folder,
            is_child=options.child,
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
