"""Programs that reach for the machine around the jail, or for the next program: (class, name, program), as ESCAPES in programs.py.

CANARY stands for a folder of the machine that everybody may write to, with a file `file`, a stream socket `stream`, a datagram socket
`datagram` and the same two as abstract sockets, named by their paths; `tests/hostile/run.py` watches all of them.
"""

from __future__ import annotations

from tests.hostile.programs import _body, _probe

CANARY = "/canary-folder"
_FILE, _NODE = f"{CANARY}/file", "/dev/null"
_NUMBERS = (
    "import platform\n"
    "X = platform.machine() == 'x86_64'\n"
    "import ctypes\n"
    "L = ctypes.CDLL(None, use_errno=True)\n"
    "def call(x86, arm, *args):\n"
    "    r = L.syscall(ctypes.c_long(x86 if X else arm), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])\n"
    "    if r < 0: raise OSError(ctypes.get_errno(), 'refused')\n"
    "    return r\n"
    "def lib(name, *args):\n"
    "    r = getattr(L, name)(*args)\n"
    "    if r < 0: raise OSError(ctypes.get_errno(), 'refused')\n"
    "    return r\n"
)


def _raw(expression: str) -> str:
    """A probe with `call(number on x86-64, on ARM64, ...)` and `lib(function of the C library, ...)`, which raise when refused."""
    return _NUMBERS + _probe(expression)


_BUFFER = "ctypes.create_string_buffer(256)"

METADATA = [
    ("metadata", f"{what} of {place}", _probe(expression.replace("PATH", repr(path))))
    for place, path in (
        ("a device", _NODE),
        ("a file of the machine", _FILE),
        ("the folder of temporary files", "/tmp"),
    )
    for what, expression in (
        ("mode", "os.chmod(PATH, 0o600)"),
        ("owner", "os.chown(PATH, os.getuid(), os.getgid())"),
        ("times", "os.utime(PATH, (1, 1))"),
        ("attribute", "os.setxattr(PATH, 'user.planted', b'x')"),
    )
]
METADATA += [
    ("metadata", "mode through a descriptor", _probe("os.fchmod(os.open('/dev/null', os.O_RDWR), 0o600)")),
    ("metadata", "mode of the library", _probe("os.chmod(os.__file__, 0o666)")),
    ("metadata", "times of the library", _probe("os.utime(os.__file__)")),
    ("metadata", "attribute of a library file", _probe("os.setxattr(os.__file__, 'user.planted', b'x')")),
    ("metadata", "attributes listed", _probe("os.listxattr(os.__file__)")),
    ("metadata", "fchmodat2", _raw("call(452, 452, -100, b'/dev/null', 0o600, 0)")),
    ("metadata", "truncate by path", _probe("os.truncate(os.__file__, 0)")),
    ("metadata", "truncate while reading", _probe("os.open(os.__file__, os.O_RDONLY | os.O_TRUNC)")),
    ("metadata", "truncate a file of the machine", _probe(f"os.open({_FILE!r}, os.O_RDONLY | os.O_TRUNC)")),
    ("metadata", "hard link of a file of the machine", _probe(f"os.link({_FILE!r}, 'mine')")),
    ("metadata", "move a file of the machine", _probe(f"os.rename({_FILE!r}, 'mine')")),
    ("metadata", "remove a file of the machine", _probe(f"os.unlink({_FILE!r})")),
    ("metadata", "make a folder beside it", _probe(f"os.mkdir({CANARY + '/planted'!r})")),
    ("metadata", "write a file of the machine", _probe(f"open({_FILE!r}, 'a').write('x')")),
    (
        "metadata",
        "through a link",
        _body(f"os.symlink({CANARY!r}, 'way')\nopen('way/file', 'a').write('x')\nreturn ('done',)"),
    ),
    (
        "metadata",
        "handle of a file",
        _raw(f"lib('name_to_handle_at', -100, b'/dev/null', {_BUFFER}, {_BUFFER}, 0)"),
    ),
    ("metadata", "lock a library file", _probe("__import__('fcntl').flock(open(os.__file__), 2)")),
    ("metadata", "make a device", _probe("os.mknod('node', 0o20666, os.makedev(1, 3))")),
]

MACHINE = [
    ("machine", "clock", _probe("time.clock_settime(time.CLOCK_REALTIME, 0)")),
    ("machine", "adjust the clock", _raw(f"lib('adjtimex', {_BUFFER})")),
    ("machine", "host name", _probe("__import__('socket').sethostname('planted')")),
    ("machine", "domain name", _raw("lib('setdomainname', b'planted', 7)")),
    ("machine", "unmount", _raw("lib('umount2', b'/tmp', 2)")),
    ("machine", "make the root writable", _raw("lib('mount', None, b'/', None, 32 | 4096, None)")),
    ("machine", "mount by descriptor", _raw("call(430, 430, b'tmpfs', 0)")),
    ("machine", "open a tree", _raw("call(428, 428, -100, b'/', 1)")),
    ("machine", "change the root", _probe("os.chroot('.')")),
    ("machine", "enter a namespace", _raw("lib('setns', 0, 0)")),
    *(
        ("machine", f"namespace {flag:#x}", _raw(f"lib('unshare', {flag})"))
        for flag in (0x20000, 0x8000000, 0x20000000, 0x40000000)
    ),
    ("machine", "clone into a user namespace", _raw("call(56, 220, 0x10000000 | 17, 0, 0, 0, 0)")),
    ("machine", "clone as the fork server's child", _raw("call(56, 220, 0x8000 | 17, 0, 0, 0, 0)")),
    ("machine", "clone3", _raw("call(435, 435, ctypes.create_string_buffer(bytes(88)), 88)")),
    ("machine", "own priority", _probe("os.setpriority(os.PRIO_PROCESS, 0, -5)")),
    ("machine", "be nicer", _probe("os.nice(1)")),
    ("machine", "priority of everybody", _probe("os.setpriority(os.PRIO_USER, 0, 19)")),
    ("machine", "priority of the fork server", _probe("os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)")),
    ("machine", "real-time scheduling", _probe("os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))")),
    ("machine", "processors of the fork server", _probe("os.sched_setaffinity(os.getppid(), {0})")),
    ("machine", "disk priority", _raw("call(251, 30, 1, 0, 1 << 13)")),
    ("machine", "become root", _probe("os.setresuid(0, 0, 0)")),
    ("machine", "another group", _probe("os.setgroups([0])")),
    (
        "machine",
        "take a capability",
        _raw("lib('capset', (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6))"),
    ),
    ("machine", "new privileges", _raw("lib('prctl', 38, 0, 0, 0, 0)")),
    ("machine", "a filter of its own", _raw("lib('prctl', 22, 2, 0, 0, 0)")),
    ("machine", "be dumpable", _raw("lib('prctl', 4, 1, 0, 0, 0)")),
    ("machine", "forget its parent", _raw("lib('prctl', 1, 0, 0, 0, 0)")),
    ("machine", "keys of the session", _raw("call(250, 219, 0, -3, 0)")),
    ("machine", "kernel log", _raw(f"lib('klogctl', 3, {_BUFFER}, 255)")),
    ("machine", "processor counters", _raw("call(298, 241, ctypes.create_string_buffer(128), 0, -1, -1, 0)")),
    ("machine", "bpf", _raw("call(321, 280, 0, ctypes.create_string_buffer(128), 128)")),
    ("machine", "io_uring", _raw("call(425, 425, 4, ctypes.create_string_buffer(128))")),
    ("machine", "userfaultfd", _raw("call(323, 282, 1)")),
    ("machine", "lock memory", _raw("lib('mlockall', 3)")),
    ("machine", "swap", _raw("lib('swapoff', b'/dev/null')")),
    ("machine", "reboot", _raw("lib('reboot', 0)")),
    ("machine", "quota", _raw("call(179, 60, 0, 0, 0, 0)")),
    ("machine", "watch files", _raw("lib('inotify_init')")),
    ("machine", "memory of the fork server", _raw("call(310, 270, os.getppid(), 0, 0, 0, 0, 0)")),
    (
        "machine",
        "limits of the fork server",
        _probe("__import__('resource').prlimit(os.getppid(), 7, (1, 1))"),
    ),
    ("machine", "handle of the fork server", _probe("os.pidfd_open(os.getppid())")),
    ("machine", "terminal input", _probe("__import__('fcntl').ioctl(0, 0x5412, b'x')")),
]

SOCKETS = [
    ("sockets", "stream", _probe(f"__import__('socket').socket(1, 1).connect({CANARY + '/stream'!r})")),
    (
        "sockets",
        "abstract stream",
        _probe(f"__import__('socket').socket(1, 1).connect({chr(0) + CANARY + '/stream'!r})"),
    ),
    (
        "sockets",
        "pair, datagram by path",
        _probe(f"__import__('socket').socketpair(1, 2)[0].sendto(b'x', {CANARY + '/datagram'!r})"),
    ),
    (
        "sockets",
        "pair, abstract datagram",
        _probe(f"__import__('socket').socketpair(1, 2)[0].sendto(b'x', {chr(0) + CANARY + '/datagram'!r})"),
    ),
    (
        "sockets",
        "pair, message to a path",
        _probe(f"__import__('socket').socketpair(1, 2)[0].sendmsg([b'x'], [], 0, {CANARY + '/datagram'!r})"),
    ),
    (
        "sockets",
        "pair, connect",
        _probe(f"__import__('socket').socketpair(1, 2)[0].connect({CANARY + '/datagram'!r})"),
    ),
    ("sockets", "pair, bind", _probe("__import__('socket').socketpair(1, 2)[0].bind('\\0planted')")),
    (
        "sockets",
        "data socket, connect",
        _probe("__import__('socket').socket(fileno=os.dup(4)).connect('\\0x')"),
    ),
    (
        "sockets",
        "send a descriptor",
        _probe("__import__('socket').send_fds(__import__('socket').socketpair()[0], [b'x'], [0])"),
    ),
    ("sockets", "virtual machine socket", _probe("__import__('socket').socket(40, 1, 0)")),
    ("sockets", "kernel crypto", _probe("__import__('socket').socket(38, 5, 0)")),
    ("sockets", "packets", _probe("__import__('socket').socket(17, 3, 0)")),
    ("sockets", "pair of the internet", _probe("__import__('socket').socketpair(2, 1)")),
]

NEXT = [
    ("next", "close the work folder", _probe("os.chmod('.', 0o500)")),
    ("next", "close the folder above", _probe("os.chmod('..', 0)")),
    (
        "next",
        "mask of new files",
        _body("os.umask(0o777)\nos.mkdir('x')\nopen('y', 'w').close()\nraise ValueError('planted')"),
    ),
    ("next", "attribute of the work folder", _probe("os.setxattr('.', 'user.planted', b'x')")),
    ("next", "file beside the work folder", _probe("open('../planted', 'w').write('x')")),
    ("next", "folder beside the work folder", _probe("os.mkdir('../planted')")),
    ("next", "the next work folder", _probe("os.mkdir('../' + str(int(os.path.basename(os.getcwd())) + 1))")),
    ("next", "remove the work folder", _probe("os.rmdir(os.getcwd())")),
    ("next", "move the work folder", _probe("os.rename(os.getcwd(), '../planted')")),
    ("next", "shared memory", _raw("lib('shmget', 77, 4096, 0o1666)")),
    ("next", "message queue", _raw("lib('msgget', 77, 0o1666)")),
    ("next", "semaphores", _raw("lib('semget', 77, 1, 0o1666)")),
    ("next", "POSIX queue", _raw("call(240, 180, b'planted', 0o102, 0o666, 0)")),
    ("next", "POSIX shared memory", _probe("__import__('_posixshmem').shm_open('/planted', 66, mode=0o666)")),
    ("next", "memory file", _probe("os.memfd_create('planted')")),
    ("next", "owner of a descriptor", _probe("__import__('fcntl').fcntl(4, 8, os.getppid())")),
    ("next", "signal of a descriptor", _probe("__import__('fcntl').fcntl(4, 10, 9)")),
    (
        "next",
        "owner by ioctl",
        _probe("__import__('fcntl').ioctl(4, 0x8901, __import__('struct').pack('i', os.getppid()))"),
    ),
    ("next", "lease", _probe("__import__('fcntl').fcntl(os.open(os.__file__, 0), 1024, 0)")),
    ("next", "notice of changes", _probe("__import__('fcntl').fcntl(os.open('.', 0), 1026, 1)")),
    ("next", "signal to the group", _probe("os.killpg(os.getpgid(os.getppid()), 15)")),
    ("next", "queued signal", _raw("call(129, 138, os.getppid(), 15, ctypes.create_string_buffer(128))")),
    ("next", "signal by thread id", _raw("call(200, 130, os.getppid(), 9)")),
    ("next", "timers", _raw(f"lib('timer_create', 0, None, {_BUFFER})")),
    ("next", "timer descriptor", _raw("lib('timerfd_create', 0, 0)")),
    ("next", "new session", _probe("os.setsid()")),
    ("next", "new process group", _probe("os.setpgid(0, os.getppid())")),
    ("next", "pipe of a gigabyte", _probe("__import__('fcntl').fcntl(os.pipe()[0], 1031, 1 << 30)")),
    (
        "next",
        "deep folders",
        _body("for _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')\nraise ValueError('planted')"),
    ),
    (
        "next",
        "deep closed folders",
        _body(
            "for _ in range(300):\n    os.mkdir('d', 0o700)\n    os.chdir('d')\n    os.mkdir('e', 0)\nraise ValueError"
        ),
    ),
    (
        "next",
        "many folders",
        _body("for i in range(3000): os.mkdir(f'd{i}', 0o500)\nraise ValueError('planted')"),
    ),
    (
        "next",
        "links everywhere",
        _body(
            "for i in range(300): os.symlink('/' if i % 2 else '..', f'l{i}')\nraise ValueError('planted')"
        ),
    ),
    (
        "next",
        "odd names",
        _body(
            "for n in (b'\\xff\\xfe', b'a\\nb', b'-rf', b' ', b'x' * 255): os.mkdir(n)\nraise ValueError('planted')"
        ),
    ),
    ("next", "no end of files", _body("i = 0\nwhile True:\n    i += 1\n    os.close(os.open(str(i), 66))")),
    ("next", "no end of folders", _body("i = 0\nwhile True:\n    i += 1\n    os.mkdir(str(i))")),
    (
        "next",
        "no end of threads",
        _body(
            "import threading, _thread\nthreading.stack_size(32768)\nn = 0\ntry:\n    while n < 5000:\n        _thread.start_new_thread(time.sleep, (60,))\n"
            "        n += 1\nexcept RuntimeError:\n    pass\nif n > 4000: return ('done', n)\nraise ValueError(n)"
        ),
    ),
    (
        "next",
        "thread that outlives the answer",
        _body(
            "import _thread\n_thread.start_new_thread(lambda: [open(f'x{i}', 'w') for i in range(10**6)], ())\nraise ValueError('planted')"
        ),
    ),
    (
        "next",
        "alarm",
        _body(
            "import signal\nsignal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)\ntime.sleep(0.2)\nraise ValueError('planted')"
        ),
    ),
]

REACHES: list[tuple[str, str, str]] = [*METADATA, *MACHINE, *SOCKETS, *NEXT]
