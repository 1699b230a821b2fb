"""nginx as a gateway: what its own modules can do of the default chain. It is what the others are compared with."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from string import Template

from bench.peer import Peer
from bench.request import SERVER_KEY, SSE_TARGET

_TEMPLATE = Path(__file__).with_name("nginx.conf.template")


class Nginx(Peer):
    """One worker under its master."""

    name = "nginx"
    program = "nginx"

    def configure(self) -> list[str]:
        """Fill in the template."""
        file = self.directory / "nginx.conf"
        text = Template(_TEMPLATE.read_text()).substitute(
            # Started by root, the worker would otherwise become somebody who cannot enter the directory.
            user="user root;" if os.geteuid() == 0 else "",
            directory=self.directory,
            port=self.port,
            upstream_port=self.upstream_port,
            server_key=SERVER_KEY,
            sse_target=SSE_TARGET,
        )
        file.write_text(text)
        return [self._command(), "-p", str(self.directory), "-c", str(file)]

    def version(self) -> str:
        """As ``nginx -v`` has it."""
        said = subprocess.run([self._command(), "-v"], capture_output=True, text=True, check=True)
        return said.stderr.strip().rpartition("/")[2]

    def _command(self) -> str:
        # Debian keeps it where only root's PATH leads.
        return shutil.which("nginx") or "/usr/sbin/nginx"
