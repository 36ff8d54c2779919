"""Hostile code for the interpreter, as data: one table, run by `test_hostile` on every backend that contains it.

A snippet tries one thing and prints ESCAPED where it succeeded. `says` is a pattern that the result must match, so that
a snippet that broke for another reason does not count as contained. The words in capitals that begin with $ stand for
what surrounds the sandbox: a file beside it, a listener, a process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ESCAPED: Final = "ESCAPED"


@dataclass(frozen=True)
class Snippet:
    """What an attacker runs.

    Attributes:
        kind: what it is after.
        says: a pattern of what the result must say; "" if only the world outside counts.
        sound: whether the very next cell must work; else the interpreter may be found to have ended first.
    """

    kind: str
    name: str
    code: str
    says: str = ""
    sound: bool = False


REFUSED: Final = "PermissionError|FileNotFoundError|OSError|BlockingIOError|refused"
ENDED: Final = "TimeoutError|crashed"
SHORT: Final = f"MemoryError|{ENDED}"

# Name -> how a file's bytes might be read through it.
_READERS: Final = {
    "open": "open('$CANARY').read()",
    "builtins_original": "__import__('_io').open('$CANARY').read()",
    "FileIO": "__import__('_io').FileIO('$CANARY').read()",
    "open_code": "__import__('_io').open_code('$CANARY').read()",
    "posix_open": "__import__('posix').read(__import__('posix').open('$CANARY', 0), 999)",
    "os_open_path": "__import__('posix').read(__import__('posix').open('$CANARY', 0o10000000), 999)",
    "source_loader": "__import__('importlib.machinery').machinery.SourceFileLoader('a', '$CANARY').get_data('$CANARY')",
    "zip_import": "__import__('zipimport').zipimporter('$CANARY')",
    "linecache": "__import__('linecache').getline('$CANARY', 1) or (_ for _ in ()).throw(OSError('refused'))",
    "tokenize": "__import__('tokenize').open('$CANARY').read()",
    "fileinput": "list(__import__('fileinput').input('$CANARY'))",
    "sqlite": "__import__('sqlite3').connect('file:$CANARY?mode=ro', uri=True).execute('select 1 from sqlite_schema')",
    "runpy": "__import__('runpy').run_path('$CANARY')",
    "shared_library": "__import__('ctypes').CDLL('$CANARY')",
    "dynamic_module": "__import__('_imp').create_dynamic(__import__('importlib.machinery').machinery"
    ".ModuleSpec('canary', None, origin='$CANARY'))",
    "dotdot": "__import__('posix').open('/proc/self/cwd/../../../../../..$CANARY', 0)",
    "through_root": "__import__('posix').open('/proc/self/root$CANARY', 0)",
    "through_supervisor": "__import__('posix').open('/proc/$SUPERVISOR/root$CANARY', 0)",
    "folder": "__import__('posix').listdir('$FOLDER')",
    "home": "__import__('posix').listdir('/root')",
    "passwd": "__import__('_io').open('/etc/passwd').read()",
    "toolenv_source": "__import__('_io').open('$SOURCE').read()",
    "guest_source": "__import__('_io').open('$GUEST').read()",
    "own_environment": "__import__('_io').open('/proc/self/environ').read()",
    "first_environment": "__import__('_io').open('/proc/1/environ').read()",
    "owner_environment": "__import__('_io').open('/proc/$OWNER/environ').read()",
    "supervisor_environment": "__import__('_io').open('/proc/$SUPERVISOR/environ').read()",
    "own_memory": "__import__('_io').open('/proc/self/mem', 'rb').read(1)",
    "owner_memory": "__import__('_io').open('/proc/$OWNER/mem', 'rb').read(1)",
    "owner_maps": "__import__('_io').open('/proc/$OWNER/maps').read()",
    "owner_descriptors": "__import__('posix').listdir('/proc/$OWNER/fd')",
    "processes": "__import__('posix').listdir('/proc')",
    "disk": "__import__('posix').open('/dev/mem', 0)",
    "kernel_log": "__import__('posix').open('/dev/kmsg', 0)",
    "ftp": "__import__('urllib.request').request.urlopen('file://$CANARY').read()",
    "site_packages": "__import__('orjson')",
    "toolenv": "__import__('toolenv')",
    "site_packages_by_path": "(__import__('sys').path.append('$PACKAGES'), __import__('apsw'))",
}

_WRITERS: Final = {
    "write": "__import__('_io').open('$CANARY', 'w')",
    "append": "__import__('_io').open('$CANARY', 'a')",
    "update": "__import__('_io').open('$CANARY', 'r+')",
    "create": "__import__('posix').open('$FOLDER/new', 0o101, 0o666)",
    "create_temporary": "__import__('posix').open('/tmp', 0o20200002, 0o600)",
    "truncate": "__import__('posix').truncate('$CANARY', 0)",
    "truncate_sparse": "__import__('posix').truncate('$CANARY', 1 << 40)",
    "remove": "__import__('posix').unlink('$CANARY')",
    "rename": "__import__('posix').rename('$CANARY', '$FOLDER/other')",
    "mkdir": "__import__('posix').mkdir('$FOLDER/made')",
    "rmdir": "__import__('posix').rmdir('$FOLDER')",
    "symlink": "__import__('posix').symlink('$CANARY', '$FOLDER/link')",
    "symlink_in_home": "__import__('os').symlink('$CANARY', 'link')",
    "link": "__import__('posix').link('$CANARY', '$FOLDER/link')",
    "fifo": "__import__('posix').mkfifo('$FOLDER/fifo')",
    "node": "__import__('posix').mknod('$FOLDER/node')",
    "chmod": "__import__('posix').chmod('$CANARY', 0)",
    "chown": "__import__('posix').chown('$CANARY', 1, 1)",
    "utime": "__import__('posix').utime('$CANARY', (0, 0))",
    "attribute": "__import__('posix').setxattr('$CANARY', 'user.a', b'')",
    "chdir": "__import__('posix').chdir('/tmp')",
    "chroot": "__import__('posix').chroot('$FOLDER')",
    "shared_memory": "__import__('posix').open('/dev/shm/hostile', 0o101, 0o600)",
    "posix_shm": "__import__('_posixshmem').shm_open('/hostile', 0o102, 0o600)",
    "memory_file": "__import__('posix').memfd_create('a')",
    "null": "__import__('posix').open('/dev/null', 1)",
    "oom_score": "__import__('posix').open('/proc/self/oom_score_adj', 1)",
    "owner_oom": "__import__('posix').open('/proc/$OWNER/oom_score_adj', 1)",
    "sysctl": "__import__('posix').open('/proc/sys/kernel/core_pattern', 1)",
    "sqlite_file": "__import__('sqlite3').connect('$FOLDER/new.db').execute('create table a (b)')",
    "bytecode": "__import__('importlib.machinery').machinery.SourceFileLoader('a', '$CANARY')._cache_bytecode"
    "('$CANARY', '$FOLDER/a.pyc', b'') or (_ for _ in ()).throw(OSError('refused'))",
    "pipe": "__import__('posix').pipe()",
}

_PROCESSES: Final = {
    "fork": "__import__('posix').fork()",
    "forkpty": "__import__('posix').forkpty()",
    "system": "__import__('posix').system('echo') == 0 or (_ for _ in ()).throw(OSError('refused'))",
    "exec": "__import__('posix').execv('/bin/sh', ['sh', '-c', 'true'])",
    "posix_spawn": "__import__('posix').posix_spawn('/bin/sh', ['sh'], {})",
    "subprocess": "__import__('subprocess').run(['/bin/true'])",
    "popen": "__import__('os').popen('true').read()",
    "multiprocessing": "(lambda m: (p := m.Process(target=print), p.start()))(__import__('multiprocessing'))",
    "pool": "__import__('concurrent.futures').futures.ProcessPoolExecutor().submit(print)",
    "kill_victim": "__import__('posix').kill($VICTIM, 9)",
    "kill_owner": "__import__('posix').kill($OWNER, 9)",
    "kill_supervisor": "__import__('posix').kill($SUPERVISOR, 9)",
    "kill_all": "__import__('posix').kill(-1, 9)",
    "kill_group": "__import__('posix').killpg(0, 9)",
    "pidfd": "__import__('posix').pidfd_open($VICTIM)",
    "alarm": "__import__('signal').setitimer(0, 1)",
    "raise_limit": "__import__('resource').setrlimit(__import__('resource').RLIMIT_FSIZE, (-1, -1))",
    "limit_of_owner": "__import__('resource').prlimit($OWNER, __import__('resource').RLIMIT_NOFILE)",
    "setuid": "__import__('posix').setuid(1)",
    "setgroups": "__import__('posix').setgroups([])",
    "setsid": "__import__('posix').setsid()",
    "nice": "__import__('posix').nice(-5)",
    "affinity": "__import__('posix').sched_setaffinity(0, {0})",
    "scheduler": "__import__('posix').sched_setscheduler(0, 1, __import__('posix').sched_param(1))",
}

_SOCKETS: Final = {
    "tcp": "__import__('socket').create_connection(('127.0.0.1', $PORT), 0.2)",
    "abstract": "__import__('socket').socket(1, 1).connect('\\0$ABSTRACT')",
    "http": "__import__('urllib.request').request.urlopen('http://127.0.0.1:$PORT')",
    "pair": "__import__('socket').socketpair()",
    **{
        f"family_{family}_{kind}": f"__import__('socket').socket({family}, {kind})"
        for family, kind in (
            (1, 1),
            (1, 5),
            (2, 1),
            (2, 2),
            (2, 3),
            (10, 1),
            (16, 3),
            (17, 3),
            (29, 3),
            (38, 5),
            (40, 1),
        )
    },
}

_SYSTEM_CALLS: Final = {
    "kill": "62, $VICTIM, 9", "tkill": "200, $VICTIM, 9", "tgkill": "234, $VICTIM, $VICTIM, 9",
    "rt_sigqueueinfo": "129, $VICTIM, 9, B", "pidfd_send_signal": "424, 3, 9, 0, 0", "pidfd_getfd": "438, 3, 0, 0",
    "ptrace": "101, 16, $OWNER, 0, 0", "process_vm_readv": "310, $OWNER, B, 1, B, 1, 0",
    "process_vm_writev": "311, $OWNER, B, 1, B, 1, 0", "kcmp": "312, $OWNER, $OWNER, 0, 0, 0",
    "fork": "57", "vfork": "58", "clone": "56, 17, 0, 0, 0, 0", "clone_thread": "56, 0x50f00, 0, 0, 0, 0",
    "clone3": "435, B, 88", "execve": "59, B, 0, 0", "execveat": "322, 3, B, 0, 0, 0x1000",
    "unshare": "272, 0x10000000", "setns": "308, 3, 0", "mount": "165, B, B, 0, 0, 0", "umount2": "166, B, 0",
    "move_mount": "429, 3, B, 3, B, 0", "open_tree": "428, -100, B, 0", "fsopen": "430, B, 0", "pivot_root": "155, B, B",
    "bpf": "321, 0, B, 48", "io_uring_setup": "425, 1, B", "keyctl": "250, 0, -3, 0", "add_key": "248, B, B, 0, 0, -3",
    "request_key": "249, B, B, 0, -3", "perf_event_open": "298, B, 0, -1, -1, 0", "userfaultfd": "323, 0",
    "memfd_create": "319, B, 0", "memfd_secret": "447, 0", "prctl_dumpable": "157, 4, 1, 0, 0, 0",
    "prctl_seccomp_off": "157, 22, 0, 0, 0, 0", "prctl_name": "157, 15, B, 0, 0, 0", "seccomp": "317, 1, 0, B",
    "landlock_create": "444, 0, 0, 1", "landlock_restrict": "446, 3, 0", "openat_write": "257, -100, B, 2, 0",
    "openat2": "437, -100, B, B, 24", "open_by_handle_at": "304, 3, B, 0", "name_to_handle_at": "303, -100, B, B, B, 0",
    "creat": "85, B, 0o666", "socket": "41, 2, 1, 0", "socketpair": "53, 1, 1, 0, B", "connect": "42, 3, B, 16",
    "accept": "43, 3, 0, 0", "sendto": "44, 3, B, 1, 0, 0, 0", "sendmsg": "46, 3, B, 0", "recvmsg": "47, 3, B, 0",
    "dup2": "33, 3, 9", "fcntl_owner": "72, 3, 8, $VICTIM", "fcntl_dup": "72, 3, 0, 0", "fcntl_async": "72, 3, 4, 0o20000",
    "ioctl_inject": "16, 3, 0x5412, B", "ioctl_high_half": "16, 3, 0x100005401, B", "prlimit_set": "302, 0, 7, B, 0", "prlimit_read": "302, $OWNER, 7, 0, B",
    "init_module": "175, B, 1, B", "kexec_load": "246, 0, 0, B, 0", "reboot": "169, 0xfee1dead, 672274793, 0, 0",
    "swapon": "167, B, 0", "settimeofday": "164, B, 0", "clock_settime": "227, 0, B", "sethostname": "170, B, 1",
    "iopl": "172, 3", "ioperm": "173, 0, 1, 1", "personality": "135, 0x40000", "modify_ldt": "154, 0, B, 16",
    "quotactl": "179, 0, 0, 0, 0", "acct": "163, 0", "syslog": "103, 2, B, 10", "capset": "126, B, B",
    "setrlimit": "160, 1, B", "timer_create": "222, 0, 0, B", "timerfd_create": "283, 0, 0", "eventfd2": "290, 0, 0",
    "epoll_create1": "291, 0", "inotify_init1": "294, 0", "fanotify_init": "300, 0, 0", "signalfd4": "289, -1, B, 8, 0",
    "shmget": "29, 0, 4096, 0o1600", "msgget": "68, 0, 0o1600", "semget": "64, 0, 1, 0o1600", "mq_open": "240, B, 0o102, 0",
    "sendfile": "40, 3, 3, 0, 1", "splice": "275, 3, 0, 3, 0, 1, 0", "fallocate": "285, 3, 0, 0, 1 << 30",
    "ftruncate": "77, 3, 1 << 40", "sync": "162", "mlockall": "151, 3", "mbind": "237, 0, 0, 0, 0, 0, 0",
    "restart_unknown": "999",
}  # fmt: skip

_CALLS: Final = """\
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
B = ctypes.create_string_buffer(b"$CANARY", 256)
arguments = [ctypes.c_long(a) if isinstance(a, int) else a for a in ({})]
print("ESC" "APED" if libc.syscall(*arguments) != -1 else "refused", ctypes.get_errno())
"""


def _attempts(kind: str, attempts: dict[str, str], says: str) -> list[Snippet]:
    """Each must raise; `says` is what."""
    return [Snippet(kind, name, f"{code}\nprint('ESC' 'APED')", says, sound=True) for name, code in attempts.items()]


_REPLY: Final = """\
import sys, json, posix
frame = sys._getframe()
while "request" not in frame.f_locals: frame = frame.f_back
nonce = frame.f_locals["request"]["nonce"]
def reply(**changes):
    return json.dumps({"nonce": nonce, "output": "mine", "exception": None, "line": None, "files": {}} | changes).encode() + b"\\n"
"""


def _exhausting() -> list[Snippet]:
    spins = {
        "python": "while True: pass",
        "iterator": "sum(__import__('itertools').repeat(1))",
        "list_of_iterator": "__import__('collections').deque(__import__('itertools').count(), 0)",
        "power": "10 ** 10 ** 8",
        "digits": "__import__('sys').set_int_max_str_digits(0)\nstr(7 ** 5_000_000)",
        "factorial": "__import__('math').factorial(10 ** 7)",
        "regular_expression": "__import__('re').match('(a+)+$', 'a' * 40 + 'b')",
        "repr": "class A:\n  def __repr__(self):\n    while True: pass\nA()",
        "except_everything": "while True:\n  try:\n    while True: pass\n  except BaseException: pass",
        "select": "__import__('select').select([], [], [], 1000)",
        "poll": "__import__('select').poll().poll()",
        "real_sleep": "__import__('ctypes').CDLL(None).sleep(1000)",
        "read_channel": "__import__('posix').read(3, 1)",
        "lock": "lock = __import__('_thread').allocate_lock(); lock.acquire(); lock.acquire()",
        "signals": "import signal\nfor n in range(1, 65):\n  try: signal.signal(n, signal.SIG_IGN)\n"
        "  except (OSError, ValueError): pass\nwhile True: pass",
        "finalizer": "class A:\n  def __del__(self):\n    while True: pass\na = A()\ndel a",
        "yield_forever": "print(*iter(int, 1))",
        "output_of_class": "class A:\n  def __str__(self):\n    while True: print('x' * 10_000)\nprint(A())",
        "string_of_exception": "class A(Exception):\n  def __str__(self):\n    while True: pass\nraise A",
    }
    bombs = {
        "bytes": "bytes(1 << 40)",
        "text": "'x' * (1 << 34)",
        "list": "a = []\nwhile True: a.append(a * 100 if len(a) < 9 else [0] * 1_000_000)",
        "dictionary": "a = dict()\nwhile True: a[len(a)] = bytes(1_000_000)",
        "numbers": "a = 1\nwhile True: a = a << 10_000_000 | 1",
        "mmap": "import mmap\na = [mmap.mmap(-1, 1 << 26) for _ in range(99)]",
        "threads": "import threading\nfor _ in range(99): threading.Thread(target=print).start()",
        "zip": "import zlib\nzlib.decompress(zlib.compress(bytes(1 << 26)) * 1, bufsize=1 << 31)",
        "syntax": "eval('(' * 10_000 + ')' * 10_000)",
        "nested": "a = []\nfor _ in range(10 ** 6): a = [a]\nrepr(a)",
        "recursion": "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(): return f()\nf()",
        "recursion_in_c": "import sys\nsys.setrecursionlimit(10 ** 9)\nclass A:\n  def __repr__(self): return repr(self)\nrepr(A())",
    }
    said = {"threads": "RuntimeError", "syntax": "MemoryError|SyntaxError|RecursionError|crashed"}
    said |= {
        "nested": f"RecursionError|{SHORT}",
        "recursion": f"RecursionError|{SHORT}",
        "recursion_in_c": f"Recursion|{SHORT}",
    }
    return [
        *(Snippet("time", name, code, f"{SHORT}|KeyboardInterrupt") for name, code in spins.items()),
        *(Snippet("memory", name, code, said.get(name, f"{SHORT}|OSError")) for name, code in bombs.items()),
        Snippet("disk", "large_file", "open('a', 'w').write('x' * 10_000_000)", "No space", sound=True),
        Snippet("disk", "many_files", "for n in range(999): open(f'f{n}', 'w').close()", "No space", sound=True),
        Snippet("disk", "many_folders", "import os\nfor n in range(999): os.mkdir(f'f{n}')", "No space", sound=True),
        Snippet(
            "disk", "all_files", "for n in range(9): open(f'f{n}', 'w').write('x' * 999_999)", "No space", sound=True
        ),
        Snippet(
            "disk", "sparse", "f = open('a', 'wb')\nf.seek(1 << 24)\nf.write(b'x')", "No space|MemoryError", sound=True
        ),
        Snippet("output", "much", "for _ in range(10_000): print('x' * 1_000)", "more characters", sound=True),
        Snippet("output", "one_line", "print('x' * 50_000_000)", "more characters", sound=True),
        Snippet("output", "halves", "print('\\ud800\\udfff' * 10)", "ud800", sound=True),
        Snippet("output", "controls", "print('\\x00\\x1b[2J\\r\\u202e\\u2028\\ufeff')", "", sound=True),
        Snippet("output", "wide", "print('\\U0010ffff' * 10_000)", "more characters", sound=True),
    ]


def _breaking() -> list[Snippet]:
    broken = {
        "os_exit": "__import__('posix')._exit(0)",
        "abort": "__import__('posix').abort()",
        "null": "__import__('ctypes').string_at(0)",
        "faulthandler": "__import__('faulthandler')._sigsegv()",
        "fatal": "__import__('faulthandler')._fatal_error_c_thread()",
        "wild_write": "__import__('ctypes').memset(id(None), 0, 1 << 20)",
        "bad_code": "f = lambda: 0\nf.__code__ = f.__code__.replace(co_code=b'\\x64\\xff' * 9)\nf()",
        "close_channel": "__import__('posix').closerange(0, 64)",
        "write_everywhere": "import posix\nfor n in range(65):\n  try: posix.write(n, b'garbage\\n')\n  except OSError: pass",
        "half_a_line": "__import__('posix').write(3, b'{\"nonce\"')",
        "dumps_is_garbage": "import sys\nf = sys._getframe()\nwhile f:\n  f.f_globals['json'] = f.f_globals['_shown'] = 0\n"
        "  f = f.f_back",
        "take_is_garbage": "import sys\nsys.stdout.take = lambda: 7",
        "take_is_huge": "import sys\nsys.stdout.take = lambda: 'x' * 50_000_000",
        "loop_is_dead": "import sys\nf = sys._getframe()\nwhile f:\n  f.f_locals.clear(); f = f.f_back\nimport gc\n"
        "for o in gc.get_objects():\n  if type(o) is dict and o is not globals() and len(o) < 400: o.clear()",
        "interpreter_type": "import gc\nfor o in gc.get_objects() + list(object.__subclasses__()):\n"
        "  if getattr(o, '__name__', '') == 'Interpreter': o.run = lambda *_: 0",
    }
    replies = {
        "stolen_nonce": "posix.write(3, reply())",
        "two_at_once": "posix.write(3, reply() + reply())",
        "guessed_nonce": "posix.write(3, reply(nonce='0' * 16))",
        "not_json": "posix.write(3, b'\\x80\\x00\\xff\\n')",
        "nan": "posix.write(3, b'NaN\\n')",
        "list": "posix.write(3, b'[]\\n')",
        "deep": "posix.write(3, b'[' * 100_000 + b'\\n')",
        "enormous": "posix.write(3, reply(output='x' * 60_000_000))",
        "endless": "while True: posix.write(3, b'x' * 1_000_000)",
        "dotdot": "posix.write(3, reply(files={'../x': 'bad'}))",
        "absolute": "posix.write(3, reply(files={'$CANARY': 'bad'}))",
        "zero": "posix.write(3, reply(files={'a\\0b': 'bad'}))",
        "many": "posix.write(3, reply(files={str(n): '' for n in range(999)}))",
        "large": "posix.write(3, reply(files={'a': 'x' * 2_000_000}))",
        "folder": "posix.write(3, reply(files={'': 'bad'}))",
        "no_text": "posix.write(3, reply(files={'a': 7}))",
        "line_is_text": "posix.write(3, reply(line='1'))",
        "line_is_huge": "posix.write(3, reply(line=10 ** 30))",
        "exception_is_a_list": "posix.write(3, reply(exception=['x']))",
        "exception_is_long": "posix.write(3, reply(exception='x' * 9_000_000))",
        "output_is_long": "posix.write(3, reply(output='x' * 9_000_000))",
        "halves": "posix.write(3, reply(output='\\ud800'))",
        "ahead": "posix.write(3, reply())\nposix.read(3, 9)\nposix.write(3, reply())",
        "silent": "posix.write(3, reply())\nwhile True: pass",
    }
    return [
        *(Snippet("break", name, code) for name, code in broken.items()),
        *(Snippet("reply", name, _REPLY + code) for name, code in replies.items()),
    ]


def _confusing() -> list[Snippet]:
    quiet = {
        "exit": ("raise SystemExit", "SystemExit"),
        "exit_function": ("import sys\nsys.exit('x' * 10_000)", "SystemExit"),
        "interrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        "generator_exit": ("raise GeneratorExit", "GeneratorExit"),
        "repr_raises": ("class A:\n  def __repr__(self): raise ValueError('no')\nA()", "ValueError"),
        "repr_is_no_text": ("class A:\n  def __repr__(self): return 7\nA()", "TypeError"),
        "str_raises": ("class A(Exception):\n  def __str__(self): raise A\nraise A", "str.. raised A"),
        "name_is_odd": ("raise type('A\\ud800' * 9, (Exception,), {})", "A|UnicodeEncodeError"),
        "name_is_long": ("raise type('A' * 9_000_000, (Exception,), {})", "AAAA"),
        "group": ("raise ExceptionGroup('a', [ValueError(n) for n in range(9999)])", "ExceptionGroup"),
        "null_in_code": ("eval('\\0')", "SyntaxError|ValueError"),
        "identifier": ("\N{MATHEMATICAL BOLD SMALL A} = 1; print(a)", "1"),
        "stdout_is_none": ("import sys\nsys.stdout = None\nprint(1)", ""),
        "stdout_is_garbage": ("import sys\nsys.stdout = 7", ""),
        "stdin_closed": ("import sys\nsys.stdin.close()\ninput()", "ValueError|RuntimeError"),
        "input": ("input()", "EOFError"),
        "breakpoint": ("breakpoint()", ""),
        "clear_modules": ("import sys\nfor name in list(sys.modules): sys.modules[name] = None", ""),
        "no_builtins": ("import builtins\nbuiltins.len = builtins.isinstance = builtins.dict = None", ""),
        "no_json": ("import json\njson.dumps = json.loads = lambda *a, **k: '0'", ""),
        "tracing": ("import sys\nsys.settrace(lambda *a: (_ for _ in ()).throw(ValueError()))", ""),
        "profile": ("import sys\nsys.setprofile(lambda *a: 1 / 0)", ""),
        "hooks": ("import sys\nsys.excepthook = sys.displayhook = sys.unraisablehook = None\n1 / 0", "ZeroDivision"),
        "audit": ("import sys\ndef hook(*_): raise ValueError\nsys.addaudithook(hook)", ""),
        "low_recursion": ("import sys\nsys.setrecursionlimit(len(__import__('traceback').extract_stack()) + 9)", ""),
        "clear_annotations": ("__builtins__.__dict__.clear()", ""),
        "at_exit": ("import atexit\natexit.register(print, 'later')", ""),
    }
    walks = {
        "subclasses": "for c in object.__subclasses__():\n  if 'Popen' in c.__name__: c('true'); print('ESC' 'APED')",
        "hunt_database": "import gc\nfor o in gc.get_objects():\n"
        "  if type(o).__name__ in ('World', 'WorldImage', 'Connection'): print('ESC' 'APED')",
        "hunt_modules": "import sys\nif any('apsw' in n or 'toolenv' in n for n in sys.modules): print('ESC' 'APED')",
        "hunt_memory": "import gc\nfor o in gc.get_objects():\n  if type(o) is dict and '$SECRET' in map(str, o.values()):\n"
        "    if o is not globals(): print('ESC' 'APED')",
        "environment": "import os, posix\nprint(os.environ, posix.environ, os.getenv('TOOLENV_HOSTILE'))",
        "environment_in_c": "import ctypes\nctypes.CDLL(None).getenv.restype = ctypes.c_char_p\n"
        "print(ctypes.CDLL(None).getenv(b'TOOLENV_HOSTILE'))",
        "descriptors": "import posix\nfor n in range(64):\n  try: print(n, posix.fstat(n).st_mode >> 12) if n > 3 else 0\n"
        "  except OSError: continue\n  if n > 3: print('ESC' 'APED')",
        "descriptors_seek": "import posix\nfor n in range(64):\n  try: text = posix.pread(n, 999, 0)\n"
        "  except OSError: continue\n  if text: print('ESC' 'APED')",
    }
    return [
        *(Snippet("confuse", name, code, says) for name, (code, says) in quiet.items()),
        *(Snippet("hunt", name, code) for name, code in walks.items()),
    ]


SNIPPETS: Final = [
    *_attempts("read", _READERS, f"{REFUSED}|ImportError|ModuleNotFound|ZipImportError|OperationalError|URLError"),
    *_attempts("write", _WRITERS, f"{REFUSED}|OperationalError|AttributeError"),
    *_attempts("process", _PROCESSES, f"{REFUSED}|ImportError|itimer_error|ValueError"),
    *_attempts("socket", _SOCKETS, f"{REFUSED}|URLError|ImportError"),
    *(
        Snippet("call", name, _CALLS.replace("{}", f"{arguments},"), "refused (1|38)\\b", sound=True)
        for name, arguments in _SYSTEM_CALLS.items()
    ),
    *_exhausting(),
    *_breaking(),
    *_confusing(),
]
