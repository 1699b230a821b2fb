"""``python -m proxy``: the same as ``sluice``."""

from proxy.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
