"""Runs containers of built images by crun, as strictly as Kubernetes would: no daemon is needed."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.images.build import buildah

_STOP_SECONDS = 20.0
_UNIFIED = "umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && "
"""crun refuses a machine that mounts both kinds of cgroups, though it is to use neither."""
_DEVICES = {
    "proc": ("/proc", "proc", "nosuid,noexec,nodev"),
    "devices": ("/dev", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
    "shm": ("/dev/shm", "tmpfs", "nosuid,noexec,nodev,mode=1777,size=65536k"),
    "tmp": ("/tmp", "tmpfs", "nosuid,nodev,mode=1777,size=65536k"),
}


@dataclass(frozen=True)
class Image:
    """An image, mounted to be looked at and run from."""

    name: str
    root: Path
    """Its files."""
    config: dict[str, Any]
    """Docker's `Config`: User, Env, Entrypoint, Cmd, Healthcheck, Labels, Volumes and so on."""

    @property
    def command(self) -> list[str]:
        """What it runs, without arguments of the container's own."""
        return [*(self.config.get("Entrypoint") or ()), *(self.config.get("Cmd") or ())]

    @property
    def environment(self) -> dict[str, str]:
        """Its variables."""
        return dict(text.split("=", 1) for text in self.config["Env"])


@contextmanager
def mounted_image(name: str) -> Iterator[Image]:
    """Yield an image of this machine."""
    container = buildah("from", "--pull=never", name)
    try:
        inspected = json.loads(buildah("inspect", "--type", "image", name))
        yield Image(name, Path(buildah("mount", container)), inspected["Docker"]["config"])
    finally:
        buildah("rm", container)


@dataclass
class Container:
    """A container: its root is read-only, it has no capabilities, and can't gain any."""

    image: Image
    name: str
    """Unique on this machine."""
    folder: Path
    """For its configuration and log."""
    arguments: Sequence[str] = ()
    """Those after the image's entrypoint, or the whole command of an image without one."""
    environment: Mapping[str, str] = field(default_factory=dict)
    volumes: Mapping[str, Path] = field(default_factory=dict)
    """Folders that it may write, by where it has them."""
    hosts: Path | None = None
    """Its /etc/hosts; None for the image's."""
    network: Path | None = None
    """Its network namespace; None for this process's."""
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        self.folder.mkdir(parents=True)
        (self.folder / "config.json").write_text(json.dumps(self._specification()))
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                _crun("run", "--bundle", str(self.folder), self.name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it."""
        return subprocess.run(
            _crun("exec", self.name, *command), capture_output=True, check=False, text=True
        )

    def is_healthy(self, command: Sequence[str]) -> bool:
        """Return whether its health check passes; raise AssertionError if it has ended."""
        assert self.process is not None
        assert self.process.poll() is None, f"{self.name} ended: {self.log()}"
        return self.run(*command).returncode == 0

    def log(self) -> str:
        """What it printed."""
        return self._log.read_text(errors="replace")[-4000:]

    def stop(self) -> int | None:
        """Ask it to stop, as a cluster does; return its exit code, None if it was killed."""
        if self.process is None:
            return None
        subprocess.run(_crun("kill", self.name, "TERM"), capture_output=True, check=False)
        try:
            return self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            subprocess.run(_crun("delete", "--force", self.name), check=False)
            self.process.wait(_STOP_SECONDS)
            return None

    @property
    def _log(self) -> Path:
        return self.folder / "log"

    def _specification(self) -> dict[str, Any]:
        config = self.image.config
        user, _, group = config["User"].partition(":")
        environment = {**self.image.environment, **self.environment}
        namespaces: list[dict[str, str]] = [
            {"type": kind} for kind in ("pid", "ipc", "uts", "mount")
        ]
        if self.network is not None:
            namespaces.append({"type": "network", "path": str(self.network)})
        files = {} if self.hosts is None else {"/etc/hosts": self.hosts}
        return {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": int(user), "gid": int(group)},
                "args": [*(config.get("Entrypoint") or ()), *self.arguments],
                "env": [f"{name}={text}" for name, text in environment.items()],
                "cwd": config.get("WorkingDir") or "/",
                "capabilities": {},
                "noNewPrivileges": True,
            },
            "root": {"path": str(self.image.root), "readonly": True},
            "hostname": self.name,
            "mounts": [
                *(
                    {"destination": place, "type": kind, "source": kind, "options": text.split(",")}
                    for place, kind, text in _DEVICES.values()
                ),
                *(_bound(place, path, "rw") for place, path in self.volumes.items()),
                *(_bound(place, path, "ro") for place, path in files.items()),
            ],
            "linux": {
                "namespaces": namespaces,
                "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"],
            },
        }


def _bound(place: str, path: Path, mode: str) -> dict[str, Any]:
    options = ["rbind", mode, "nosuid", "nodev"]
    return {"destination": place, "type": "none", "source": str(path), "options": options}


def _crun(*arguments: str) -> list[str]:
    command = ["crun", "--cgroup-manager=disabled", *arguments]
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return command
    return ["unshare", "--mount", "sh", "-c", f"{_UNIFIED}exec {shlex.join(command)}"]
