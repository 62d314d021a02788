"""commpool for Python, through ctypes: blocking, and for asyncio.

    with commpool.Pool() as pool:
        pong = pool.communicate("tcp://127.0.0.1:6379",
                                lambda redis: redis.ask(b"PING\\r\\n", b"\\r\\n"))

    async with commpool.AsyncPool() as pool:
        async with pool.borrow("tcp://127.0.0.1:6379") as redis:
            pong = await redis.ask(b"PING\\r\\n", b"\\r\\n")

What the C library answers with a status is raised as commpool.Error here. The shared library is the
one that COMMPOOL_LIBRARY names, or the installed one. Blocking calls give up the interpreter's lock
while they wait, so threads work side by side. A Pool is used from any thread, an AsyncPool on the
thread of its event loop, which drives its mux: there is no other thread. Addresses of tls:// are secured by
the Tls that a pool is given, or trust whom the system trusts:

    with commpool.Pool(tls=commpool.Tls(ca_file="ca.pem")) as pool: ...
"""
import asyncio
import contextlib
import ctypes
import ctypes.util
import os

_c = ctypes
_p = ctypes.c_void_p
_u32 = ctypes.c_uint32

POOL_OK, POOL_E_USER = 0, -22
_EV_READ, _EV_ERROR, _EV_CLOSED = 1, 5, 6


class _Conn(_c.Structure):
    _fields_ = [("slot", _p), ("serial", _c.c_uint64)]


class _Bytes(_c.Structure):
    _fields_ = [("data", _p), ("size", _c.c_size_t)]


class _Error(_c.Structure):
    _fields_ = [("size", _c.c_size_t), ("status", _c.c_int), ("phase", _c.c_int), ("outcome", _c.c_int),
                ("cause", _c.c_int), ("spent_ms", _u32 * 8), ("text", _c.c_char * 256)]


class _Call(_c.Structure):
    _fields_ = [("size", _c.c_size_t), ("timeout_ms", _u32), ("wait_ms", _u32), ("flags", _u32),
                ("deadline_ns", _c.c_uint64), ("ticket", _p), ("on_part", _p), ("target", _p), ("on_error", _p),
                ("error", _c.POINTER(_Error)), ("tag", _c.c_char_p), ("user", _p)]


_NUMBERS = ("max_connections max_per_address max_waiters max_connecting max_inflight min_idle max_idle max_uses "
            "idle_ms max_age_ms park_ms leak_ms timeout_ms connect_ms tls_ms read_ms write_ms barge_ms write_high "
            "write_low max_line max_message backoff_first_ms backoff_max_ms suspend_after suspend_ms").split()
_HOOKS = ("on_socket on_new_connection prepare on_error on_none_removable on_event on_log on_request on_orphan "
          "user on_resolved").split()


class _Options(_c.Structure):
    _fields_ = ([("size", _c.c_size_t), ("mux", _p), ("codec", _p), ("tls", _p)] + [(name, _u32) for name in _NUMBERS] +
                [("check", _c.c_int), ("order", _c.c_int), ("start_paused", _c.c_bool)] +
                [(name, _p) for name in _HOOKS])


_TEXTS = "ca_file ca_dir ca_pem cert_file cert_pem key_file key_pem ciphers alpn name".split()


class _TlsOptions(_c.Structure):
    _fields_ = ([("size", _c.c_size_t)] + [(name, _c.c_char_p) for name in _TEXTS] +
                [("min_version", _c.c_int), ("insecure", _c.c_bool), ("key_log", _p), ("user", _p)])


class _TlsInfo(_c.Structure):
    _fields_ = ([("size", _c.c_size_t), ("secure", _c.c_bool), ("resumed", _c.c_bool)] +
                [(name, _c.c_char_p) for name in "version cipher alpn peer_name".split()])


class _Stats(_c.Structure):
    _fields_ = [("size", _c.c_size_t)] + [(name, _c.c_uint64) for name in
                                          "idle lent shared opening closing total waiting".split()]


_Use = _c.CFUNCTYPE(_c.c_int, _c.POINTER(_Conn), _p)
_Lent = _c.CFUNCTYPE(None, _c.POINTER(_Conn), _c.POINTER(_Error), _p)
_Event = _c.CFUNCTYPE(None, _c.POINTER(_Conn), _c.c_int, _Bytes, _p)


def _load():
    name = os.environ.get("COMMPOOL_LIBRARY") or _c.util.find_library("commpool")
    if not name:
        raise ImportError("libcommpool.so was not found: install it, or name it in COMMPOOL_LIBRARY")
    library = _c.CDLL(name)
    conn, call = _c.POINTER(_Conn), _c.POINTER(_Call)
    for name, *types in (
            ("pool_create", _c.POINTER(_Options), _c.POINTER(_p)), ("pool_borrow", _p, _c.c_char_p, call, conn),
            ("pool_communicate", _p, _c.c_char_p, _Use, _p, call), ("pool_return", conn), ("pool_discard", conn),
            ("pool_send", conn, _c.c_char_p, _c.c_size_t), ("pool_recv_exact", conn, _p, _c.c_size_t),
            ("pool_recv_until", conn, _c.c_char_p, _c.c_size_t, _c.POINTER(_Bytes)), ("pool_stats", _p, _p),
            ("pool_tls_create", _c.POINTER(_TlsOptions), _c.POINTER(_p), _c.POINTER(_Error)),
            ("pool_tls_reload", _p, _c.POINTER(_TlsOptions), _c.POINTER(_Error)),
            ("pool_conn_tls", conn, _c.POINTER(_TlsInfo)),
            ("pool_mux_create", _c.POINTER(_p)), ("pool_mux_fd", _p), ("pool_mux_dispatch", _p, _u32),
            ("pool_communicate_async", _p, _c.c_char_p, _Lent, _p, call, _p), ("pool_conn_watch", conn, _Event, _p),
            ("pool_write", conn, _c.c_char_p, _c.c_size_t), ("pool_conn_error", conn, _c.POINTER(_Error))):
        getattr(library, name).argtypes = types
        getattr(library, name).restype = _c.c_int
    for name in ("pool_destroy", "pool_mux_destroy", "pool_options_init", "pool_call_init", "pool_tls_options_init",
                 "pool_tls_free"):
        getattr(library, name).argtypes = [_p]
        getattr(library, name).restype = None
    for name in ("pool_status_name", "pool_status_text"):
        getattr(library, name).argtypes = [_c.c_int]
        getattr(library, name).restype = _c.c_char_p
    library.pool_conn_id.argtypes = [conn]
    library.pool_conn_id.restype = _c.c_uint64
    return library


_lib = _load()


class Error(Exception):
    """A failure: `name` as "POOL_E_REFUSED", `status`, `outcome`, and one sentence as its text."""

    def __init__(self, status, told=None):
        self.status = status
        self.name = _lib.pool_status_name(status).decode()
        self.outcome = told.outcome if told is not None else 1  # perhaps sent: nobody knows better here
        super().__init__((told.text if told is not None and told.text else _lib.pool_status_text(status)).decode())


def _check(status, told=None):
    if status != POOL_OK:
        raise Error(status, told)


def _must_end(raised):
    """Such as KeyboardInterrupt: nothing is tried again, and no failure of ours stands for it."""
    return isinstance(raised, BaseException) and not isinstance(raised, Exception)


def _call(timeout_ms):
    told = _Error(size=_c.sizeof(_Error))
    call = _Call()
    _lib.pool_call_init(_c.byref(call))
    call.timeout_ms = timeout_ms
    call.error = _c.pointer(told)
    return call, told


def _open(options, mux=None):
    given, pool = _Options(), _p()
    _lib.pool_options_init(_c.byref(given))
    given.mux = mux
    for name, value in options.items():
        if name == "tls":
            value = value.tls if value else None  # the pool keeps a share of it
        elif name not in _NUMBERS + ["check", "order", "start_paused"]:
            raise TypeError(f"there is no option {name}")
        setattr(given, name, value)
    _check(_lib.pool_create(_c.byref(given), _c.byref(pool)))
    return pool


def _check_io(status, handle):
    """A failure of a connection knows the peer, the phase and what was sent."""
    if status == POOL_OK:
        return
    told = _Error(size=_c.sizeof(_Error))
    if _lib.pool_conn_error(_c.byref(handle), _c.byref(told)) == POOL_OK and told.status != POOL_OK:
        raise Error(told.status, told)
    raise Error(status)


def _told_of(call, *arguments):
    told = _Error(size=_c.sizeof(_Error))
    _check(call(*arguments, _c.byref(told)), told)


def _tls_options(options):
    given = _TlsOptions()
    _lib.pool_tls_options_init(_c.byref(given))
    for name, value in options.items():
        if name not in _TEXTS + ["min_version", "insecure"]:
            raise TypeError(f"there is no option {name} of TLS")
        setattr(given, name, value.encode() if isinstance(value, str) else value)
    return given


def _tls_info(handle):
    """What the handshake agreed on, as a dictionary; its "secure" is False for a plain connection."""
    info = _TlsInfo(size=_c.sizeof(_TlsInfo))
    _check(_lib.pool_conn_tls(_c.byref(handle), _c.byref(info)))
    told = {name: getattr(info, name) for name, _ in _TlsInfo._fields_[1:]}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in told.items()}


class Tls:
    """TLS settings for any number of pools, Pool(tls=...); `options` are the fields of struct pool_tls_options."""

    def __init__(self, **options):
        self.tls = _p()
        _told_of(_lib.pool_tls_create, _c.byref(_tls_options(options)), _c.byref(self.tls))

    def reload(self, **options):
        """New connections use these, old ones are not lent again. When it raises, nothing has changed."""
        _told_of(_lib.pool_tls_reload, self.tls, _c.byref(_tls_options(options)))

    def __del__(self):
        _lib.pool_tls_free(self.tls)


class Connection:
    """A borrowed connection. Its methods block the calling thread, and no other."""

    def __init__(self, handle):
        self.handle = handle

    @property
    def id(self):
        return _lib.pool_conn_id(_c.byref(self.handle))

    def tls(self):
        return _tls_info(self.handle)

    def send(self, data):
        _check_io(_lib.pool_send(_c.byref(self.handle), data, len(data)), self.handle)

    def receive_until(self, delimiter):
        got = _Bytes()
        _check_io(_lib.pool_recv_until(_c.byref(self.handle), delimiter, len(delimiter), _c.byref(got)), self.handle)
        return _c.string_at(got.data, got.size)

    def receive_exactly(self, size):
        room = _c.create_string_buffer(size)
        _check_io(_lib.pool_recv_exact(_c.byref(self.handle), room, size), self.handle)
        return room.raw

    def ask(self, request, delimiter):
        self.send(request)
        return self.receive_until(delimiter)

    def copy(self):
        return Connection(_Conn(self.handle.slot, self.handle.serial))

    def give_back(self):
        _check(_lib.pool_return(_c.byref(self.handle)))


class Pool:
    """A pool with a thread of its own; `options` are the fields of struct pool_options that are numbers, and tls."""

    def __init__(self, **options):
        self.pool = _open(options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        _lib.pool_destroy(self.pool)
        self.pool = None

    def communicate(self, address, use, timeout_ms=0):
        """Borrows, runs use(connection), returns the connection; answers or raises what `use` did."""
        call, told = _call(timeout_ms)
        done = {}

        def run(conn, _):
            if _must_end(done.get("raised")):
                return -1
            try:
                done["raised"] = None  # it may be run again
                done["answer"] = use(Connection(_Conn(conn[0].slot, conn[0].serial)))
                return 0
            except BaseException as raised:  # none may pass through the library
                done["raised"] = raised
                return -1

        status = _lib.pool_communicate(self.pool, address.encode(), _Use(run), None, _c.byref(call))
        raised = done.get("raised")
        if raised is not None and (status in (POOL_OK, POOL_E_USER) or _must_end(raised)):
            raise raised
        _check(status, told)
        return done["answer"]

    @contextlib.contextmanager
    def borrow(self, address, timeout_ms=0):
        """A connection for a with-block: returned at its end, discarded when it ends by an exception."""
        call, told = _call(timeout_ms)
        connection = Connection(_Conn())
        _check(_lib.pool_borrow(self.pool, address.encode(), _c.byref(call), _c.byref(connection.handle)), told)
        try:
            yield connection
        except BaseException:
            _lib.pool_discard(_c.byref(connection.handle))
            raise
        _lib.pool_return(_c.byref(connection.handle))

    def total(self):
        stats = _Stats(size=_c.sizeof(_Stats))
        _check(_lib.pool_stats(self.pool, _c.byref(stats)))
        return stats.total


class AsyncConnection:
    """A connection lent to a coroutine. Its I/O is event-driven, on the event loop's thread."""

    def __init__(self, handle):
        self.handle = handle
        self.unread = b""
        self.failure = None
        self.changed = asyncio.Event()
        self.on_event = _Event(self._event)  # kept as long as events may come
        _check(_lib.pool_conn_watch(_c.byref(self.handle), self.on_event, None))

    def _event(self, conn, event, data, _):
        if event == _EV_READ:
            self.unread += _c.string_at(data.data, data.size)
        elif event in (_EV_ERROR, _EV_CLOSED):
            told = _Error(size=_c.sizeof(_Error))
            _lib.pool_conn_error(conn, _c.byref(told))
            self.failure = Error(told.status or -11, told)
        self.changed.set()

    @property
    def id(self):
        return _lib.pool_conn_id(_c.byref(self.handle))

    def tls(self):
        return _tls_info(self.handle)

    def send(self, data):
        _check_io(_lib.pool_write(_c.byref(self.handle), data, len(data)), self.handle)

    async def receive_until(self, delimiter):
        while delimiter not in self.unread:
            if self.failure:
                raise self.failure
            self.changed.clear()
            await self.changed.wait()
        end = self.unread.index(delimiter) + len(delimiter)
        found, self.unread = self.unread[:end], self.unread[end:]
        return found

    async def ask(self, request, delimiter):
        self.send(request)
        return await self.receive_until(delimiter)


class AsyncPool:
    """A pool inside an asyncio loop: its mux is one descriptor that the loop watches."""

    def __init__(self, **options):
        self.mux = _p()
        _check(_lib.pool_mux_create(_c.byref(self.mux)))
        try:
            self.pool = _open(options, self.mux)
        except BaseException:
            _lib.pool_mux_destroy(self.mux)
            raise
        self.waiting = {}  # callbacks that are still due
        self.loop = None

    async def __aenter__(self):
        self.loop = asyncio.get_running_loop()
        self.loop.add_reader(_lib.pool_mux_fd(self.mux), _lib.pool_mux_dispatch, self.mux, 0)
        return self

    async def __aexit__(self, *_):
        self.loop.remove_reader(_lib.pool_mux_fd(self.mux))
        _lib.pool_destroy(self.pool)
        _lib.pool_mux_destroy(self.mux)

    @contextlib.asynccontextmanager
    async def borrow(self, address, timeout_ms=0):
        """A connection for an async with-block: returned at its end, discarded when an exception ends it, or when
        bytes were received that nobody asked for."""
        call, told = _call(timeout_ms)
        lent = self.loop.create_future()

        def on_lent(conn, error, _):
            self.loop.call_soon(self.waiting.pop, lent, None)  # not while it runs
            if lent.cancelled():
                if conn:
                    _lib.pool_return(conn)
            elif not conn:
                lent.set_exception(Error(error[0].status, error[0]))
            else:
                try:
                    lent.set_result(AsyncConnection(_Conn(conn[0].slot, conn[0].serial)))
                except BaseException as raised:  # none may pass through the library
                    _lib.pool_discard(conn)
                    lent.set_exception(raised)

        self.waiting[lent] = _Lent(on_lent)
        status = _lib.pool_communicate_async(self.pool, address.encode(), self.waiting[lent], None, _c.byref(call), None)
        if status != POOL_OK:
            del self.waiting[lent]
            raise Error(status, told)
        try:
            connection = await lent
        except BaseException:  # canceled, or the coroutine is thrown away
            if lent.done() and not lent.cancelled() and not lent.exception():
                _lib.pool_discard(_c.byref(lent.result().handle))  # it had come, and nobody took it
            raise
        try:
            yield connection
        except BaseException:
            _lib.pool_discard(_c.byref(connection.handle))
            raise
        if connection.unread:
            _lib.pool_discard(_c.byref(connection.handle))  # the rest of an answer must not be the next one's
        else:
            _lib.pool_return(_c.byref(connection.handle))
