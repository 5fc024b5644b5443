"""Pods of this machine: each a process tree with network, processes, files and user of its own, as containers have.

Only inside namespaces of one's own (`unshare --net --mount`), where everything made here ends with its last process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from bench.kuberay import Pod
from bench.pod_names import NameServer

BRIDGE = "pods"
GATEWAY = "10.66.0.1"
"""This process's own address among the pods."""
RESOLV = f"nameserver {GATEWAY}\nsearch pawfect.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
ROOT = Path(__file__).resolve().parents[1]
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The image: this machine's files, which nobody can write, with the sources in /app. What is mounted over them is as
# the pod's volumes say. $1: folder of the pod, $2: user, $3: sources, $4: "ro" for a root that cannot be written, $5:
# the virtual environment, which one of the mounts may hide: a clone may lie in /tmp.
_CONTAINER = """
set -e
hostname "${1##*/}"
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t tmpfs tmpfs "$1/layer"
mkdir "$1/layer/upper" "$1/layer/work" "$1/layer/root"
root="$1/layer/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/layer/upper,workdir=$1/layer/work" "$root"
chmod 755 "$root/root"
mkdir -p "$root/app"
mount --bind "$3" "$root/app"
mount -o remount,ro,bind "$root/app"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind "$1/hosts" "$root/etc/hosts"
mount --bind "$1/resolv.conf" "$root/etc/resolv.conf"
while read -r kind path source; do
  mkdir -p "$root$path"
  case "$kind" in
    empty) mount -t tmpfs -o mode=1777 tmpfs "$root$path" ;;
    folder) mount --bind "$source" "$root$path"; mount -o remount,ro,bind "$root$path" ;;
  esac
done < "$1/mounts"
mkdir -p "$root$5"
mount --bind "$5" "$root$5"
mount -o remount,ro,bind "$root$5"
[ "$4" != ro ] || mount -o remount,ro "$root"
export PATH="$POD_PATH"
unset POD_PATH
exec /usr/sbin/chroot --userspec="$2:$2" "$root" /usr/bin/env --chdir=/app /bin/bash -c -- "$POD_COMMAND"
"""
_IMAGE = {
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
    "HOME": "/cache",
    "XDG_CACHE_HOME": "/cache",
    "HF_HOME": "/cache/huggingface",
    "PAWFECT_DATA_DIR": "/data",
    "PYTHONPATH": "/app",
    "NUMBA_CACHE_DIR": "/tmp/numba",  # noqa: S108 - in the pod
    "RAY_worker_niceness": "0",  # a pod has its processors to itself; these are this machine's
}


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)


class PodNetwork:
    """Pods by name. `folders` are what a pod finds in its volumes: name or kind → folder. `services` are the names
    that all pods know; they may change meanwhile."""

    def __init__(self, folder: Path, folders: Mapping[str, Path]) -> None:
        self._folder, self._folders = folder, folders
        self.addresses: dict[str, str] = {}
        self.services: dict[str, str] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._folders_of_pods: dict[str, Path] = {}
        self._last = 1
        self._names: NameServer | None = None

    def __enter__(self) -> Self:
        Path("/run/netns").mkdir(exist_ok=True)
        run("mount", "-t", "tmpfs", "tmpfs", "/run/netns")  # seen and kept by this process's namespace alone
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "addr", "add", f"{GATEWAY}/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        self._names = NameServer(GATEWAY, self.services).__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in list(self._processes):
            self.kill(name)
        if self._names is not None:
            self._names.__exit__(kind, error, trace)

    def add_address(self, name: str) -> str:
        """A network namespace with an address that no pod had before."""
        self._last += 1
        address, link = f"10.66.0.{self._last}", f"pod{self._last}"
        run("ip", "netns", "add", name)
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", link, "master", BRIDGE, "up")
        run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            run("ip", "-n", name, "link", "set", device, "up")
        run("ip", "-n", name, "route", "add", "default", "via", GATEWAY)  # Ray finds its address by it
        self.addresses[name] = address
        return address

    def lend_address(self, name: str, address: str) -> None:
        """A second address, which another pod may have had before: a service's, that outlives its pods."""
        run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        for other in self.addresses:
            run("ip", "-n", other, "neigh", "flush", "all")
        run("ip", "neigh", "flush", "all")

    def start(self, name: str, pod: Pod, changes: Mapping[str, str]) -> None:
        """`changes` are put over the pod's environment."""
        folder = self._folders_of_pods[name] = self._folder / f"{name}-{self._last}"
        (folder / "layer").mkdir(parents=True)
        lines = []
        for path, volume in sorted(pod.mounts.items()):  # /tmp before /tmp/ray
            source = self._folders.get(volume)
            lines.append(f"empty {path} -" if source is None else f"folder {path} {source}")
        (folder / "mounts").write_text("\n".join(lines) + "\n")
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{self.addresses[name]} {name}\n")
        (folder / "resolv.conf").write_text(RESOLV)
        environment = {
            **_IMAGE,
            **pod.environment,
            **changes,
            "POD_PATH": f"{sys.prefix}/bin:{_PATH}",
            "POD_COMMAND": pod.command,
        }
        inside = [_CONTAINER, "pod", str(folder), str(pod.user), str(ROOT), "ro" if pod.read_only else "rw", sys.prefix]
        isolate = ["unshare", "--mount", "--uts", "--pid", "--fork", "/bin/bash", "-c", *inside]
        with (folder / "log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                ["ip", "netns", "exec", name, *isolate],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def list_running(self) -> list[str]:
        return [name for name, process in self._processes.items() if process.poll() is None]

    def read_log(self, name: str) -> str:
        return (self._folders_of_pods[name] / "log").read_text(errors="replace")

    def execute(self, name: str, command: str, environment: Mapping[str, str], user: int, timeout_s: float) -> str:
        """As `kubectl exec` does. Raises CalledProcessError, TimeoutExpired."""
        first = self._find_first(name)
        words = ["nsenter", f"--target={first.pid}", "--mount", "--pid", "--net", f"--root=/proc/{first.pid}/root"]
        words += [f"--setuid={user}", f"--setgid={user}", "/bin/bash", "-c", command]
        done = subprocess.run(
            words, check=True, capture_output=True, text=True, env={**environment}, timeout=timeout_s, cwd="/"
        )
        return done.stdout

    def terminate(self, name: str, grace_s: float) -> float:
        """SIGTERM to the pod's first process, SIGKILL after its grace, as the kubelet does; seconds it took."""
        began = time.monotonic()
        self._find_first(name).send_signal(signal.SIGTERM)
        try:
            self._processes[name].wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill(name)
        return time.monotonic() - began

    def kill(self, name: str) -> None:
        process = self._processes.pop(name)
        for first in psutil.Process(process.pid).children() if process.poll() is None else []:
            first.kill()  # and with it the kernel ends all others of the pod
        process.wait()
        run("ip", "netns", "del", name)
        self.addresses.pop(name)

    def _find_first(self, name: str) -> psutil.Process:
        return psutil.Process(self._processes[name].pid).children()[0]


def find_missing(tools: Sequence[str]) -> str | None:
    """Why pods cannot be made here; None when they can."""
    import shutil

    if os.geteuid() != 0:
        return "namespaces want root"
    if lacking := [tool for tool in tools if shutil.which(tool) is None]:
        return f"{', '.join(lacking)} not installed"
    tried = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, text=True, check=False)
    return tried.stderr.strip() or None
