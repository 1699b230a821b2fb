"""nginx as a gateway: what its own modules can do of the default chain. It is what the others are compared with."""

from __future__ import annotations

import os
import subprocess

from bench.install import ensure, program
from bench.peers.peer import Peer
from bench.request import SERVER_KEY, SSE_TARGET, UPLOAD_TARGET

_TLS = """\
        proxy_ssl_verify on;
        proxy_ssl_verify_depth 4;
        proxy_ssl_trusted_certificate {ca};
        proxy_ssl_name localhost;
        proxy_ssl_server_name on;
        proxy_ssl_session_reuse on;
        # The default of this version leaves out TLS 1.3, which all the others speak.
        proxy_ssl_protocols TLSv1.2 TLSv1.3;
"""


class Nginx(Peer):
    """Workers under their master. Uploads are streamed: told so, as by default they would go to a file first."""

    name = "nginx"
    has_workers = True
    differs = (
        "limits in one window where Sluice has three; streams uploads, which by default it would write to a file"
    )

    @classmethod
    def install(cls) -> None:
        """A package of Debian."""
        ensure(["nginx"])

    def configure(self) -> list[str]:
        """Fill in the template."""
        ca = self.target.ca
        file = self.fill(
            "nginx.conf.template",
            # Started by root, the worker would otherwise become somebody who cannot enter the directory.
            user="user root;" if os.geteuid() == 0 else "",
            server_key=SERVER_KEY,
            sse_target=SSE_TARGET,
            upload_target=UPLOAD_TARGET,
            upstream_port=self.target.port,
            scheme="http" if ca is None else "https",
            tls="" if ca is None else _TLS.format(ca=ca),
            # Without it the kernel wakes whichever worker it likes, and one of two does most of the work.
            reuseport="reuseport" if self.workers > 1 else "",
        )
        return [program("nginx"), "-p", str(self.directory), "-c", str(file)]

    def version(self) -> str:
        """As ``nginx -v`` has it."""
        said = subprocess.run([program("nginx"), "-v"], capture_output=True, text=True, check=True)
        return said.stderr.strip().rpartition("/")[2]
