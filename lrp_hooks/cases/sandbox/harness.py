"""Runs one untrusted program and its tests. A script for a fresh interpreter: imports nothing of this package.

Three processes: the first shuts itself in (user, network, mount, process and IPC namespaces) and waits; the second is
the init of the process namespace, so that everything in it ends with it; the third gives up its rights, runs program
and tests and, after the last test, writes the secret that the caller has sent. Arguments: descriptor of the job (JSON),
descriptor of the report. The report is one JSON object with ``secret`` or ``reason``; ``refused`` says that the kernel
would not shut the program in.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

NOBODY = 65534
# linux/sched.h, linux/prctl.h, linux/mount.h, linux/capability.h
NEW_NAMESPACES = 0x10000000 | 0x40000000 | 0x00020000 | 0x20000000 | 0x08000000  # user, net, mount, pid, ipc
SET_DEATH_SIGNAL, SET_DUMPABLE, NO_NEW_PRIVILEGES = 1, 4, 38
PRIVATE, RECURSIVE, NO_SETUID, NO_DEVICES = 1 << 18, 1 << 14, 2, 4
MOUNT_SETATTR, HERE, ALL_BELOW, READ_ONLY = 442, -100, 0x8000, 1
CAPABILITY_VERSION = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


def main(job_file: int, report_file: int) -> None:
    """Read the job, run it, report."""
    with os.fdopen(job_file, encoding="utf-8") as file:
        job = json.load(file)
    signal.alarm(int(job["seconds"]) + 5)  # should the caller die
    if job["isolated"]:
        try:
            shut_in(job)
        except OSError as error:
            report(report_file, refused=str(error))
            return
    child = os.fork()
    if child == 0:
        (contain if job["isolated"] else attempt)(job, report_file)
        os._exit(0)
    os.waitpid(child, 0)


def shut_in(job: dict[str, Any]) -> None:
    """New namespaces: no network but a loopback that is down, nothing writable but a small file system in memory."""
    if os.getuid() == 0:
        become_nobody()
    user, group, folder = os.geteuid(), os.getegid(), os.getcwd()
    call("unshare", NEW_NAMESPACES)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)
    call("mount", None, b"/", None, PRIVATE | RECURSIVE, None)
    read_only = (ctypes.c_uint64 * 4)(READ_ONLY, 0, 0, 0)
    call("syscall", MOUNT_SETATTR, HERE, b"/", ALL_BELOW, ctypes.byref(read_only), ctypes.sizeof(read_only))
    options = f"size={job['file_bytes']},nr_inodes=256,mode=0700".encode()
    call("mount", b"none", os.fsencode(folder), b"tmpfs", NO_SETUID | NO_DEVICES, options)
    os.chdir(folder)
    # Not before: the rights of the enclosing namespace would be counted with all other processes of this user.
    resource.setrlimit(resource.RLIMIT_NPROC, (job["processes"],) * 2)


def become_nobody() -> None:
    """The kernel limits the number of processes for everybody but root, and it goes by the real user.

    Where Python's own library is root's alone, files are still opened as root, but without root's rights.
    """
    os.setgroups([])
    os.seteuid(NOBODY)
    readable = os.access(os.__file__, os.R_OK, effective_ids=True)
    os.seteuid(0)
    if readable:
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    else:
        os.setresuid(NOBODY, 0, 0)
    call("prctl", SET_DUMPABLE, 1, 0, 0, 0)  # else /proc/self belongs to root and no id can be mapped


def call(name: str, *arguments: Any) -> None:
    """A function of the C library that returns 0."""
    if getattr(_libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(f"{name}: {os.strerror(number)}")


def contain(job: dict[str, Any], report_file: int) -> None:
    """The init of the namespace: no signal of the program reaches it, and when it ends, all that is left is killed."""
    call("prctl", SET_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)
    call("prctl", SET_DUMPABLE, 0, 0, 0, 0)
    child = os.fork()
    if child == 0:
        drop_rights()
        attempt(job, report_file)
        os._exit(0)
    while os.wait()[0] != child:
        pass


def drop_rights() -> None:
    """No capability is left, and none can be had: mounts stay read-only."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    none = (ctypes.c_uint32 * 6)()
    call("capset", ctypes.byref(header), ctypes.byref(none))
    call("prctl", NO_NEW_PRIVILEGES, 1, 0, 0, 0)


def attempt(job: dict[str, Any], report_file: int) -> None:
    """Program and tests, compiled one by one, so that an open quotation mark in the program swallows no test."""
    secret = job.pop("secret")
    os.setsid()
    limit(job)
    names: dict[str, Any] = {"__name__": "__main__"}
    try:
        exec(compile(job["program"], "program", "exec"), names)
        exec(compile(job["test"], "tests", "exec"), names)
        names["check"](names[job["entry_point"]])
    except BaseException as error:  # SystemExit is a failure, too
        report(report_file, reason=f"{type(error).__name__}: {error}"[:500])
    else:
        report(report_file, secret=secret)


def limit(job: dict[str, Any]) -> None:
    """What the kernel enforces in the process that runs the program."""
    resource.setrlimit(resource.RLIMIT_CPU, (job["seconds"], job["seconds"]))
    resource.setrlimit(resource.RLIMIT_AS, (job["memory_bytes"],) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_bytes"],) * 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not job["isolated"]:
        resource.setrlimit(resource.RLIMIT_NPROC, (job["processes"],) * 2)


def report(report_file: int, **fields: str) -> None:
    """One object on the descriptor that the caller reads."""
    os.write(report_file, json.dumps(fields).encode())


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
