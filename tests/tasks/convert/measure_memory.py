"""Prints by how many bytes a conversion's own memory grows at most; pages of mapped files are the system's.

Started as a process of its own: python tests/tasks/convert/measure_memory.py from=… to=… [format=hf]
"""

import sys
import threading

import yaml

from dist_plm.config.decode import decode
from dist_plm.spec.schema_convert import ConvertConfig
from dist_plm.tasks.convert.convert import convert


def anonymous_bytes() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))


def main(arguments: list[str]) -> None:
    config = decode(
        ConvertConfig, {name: yaml.safe_load(value) for name, value in (a.split("=", 1) for a in arguments)}
    )
    before, done, peak = anonymous_bytes(), threading.Event(), 0

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    convert(config)
    done.set()
    watcher.join()
    print(peak - before)


if __name__ == "__main__":
    main(sys.argv[1:])
