"""Whether the service of this container answers: exit code 0 ready, 1 not. Only asks this machine.

HEALTH_URL: another address than https://127.0.0.1:8080/health/ready.
"""

import os
import ssl
import sys
import urllib.request

URL = os.environ.get("HEALTH_URL", "https://127.0.0.1:8080/health/ready")


def main() -> int:
    """Ask once."""
    # The certificate is made out to the name that clients use, not to this machine's loopback.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with urllib.request.urlopen(URL, timeout=8, context=context) as answer:
            return 0 if answer.status == 200 else 1
    except OSError as error:
        print(f"not ready: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
