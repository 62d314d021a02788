"""What the bindings' test asks of every language, in Python (examples/cpp/redis.cpp is its twin and prints the same
lines), and the same once more in an event loop.

    redis.py tcp://127.0.0.1:6379
    redis.py tls://127.0.0.1:6380 ca.pem

With TLS it does the same and says a few things more.
"""
import asyncio
import os
import sys
import threading

import commpool


def ask(redis, command):
    line = redis.ask(command.encode() + b"\r\n", b"\r\n")
    if line[:1] != b"$":
        return line[:-2].decode()
    return redis.receive_exactly(int(line[1:]) + 2)[:-2].decode()


def name_of_failure(attempt):
    try:
        attempt()
    except commpool.Error as failure:
        return failure.name
    return "none"


def borrow_and_let_go(pool, address):
    with pool.borrow(address):
        pass


def use_after_return(pool, address):
    with pool.borrow(address) as redis:
        copy = redis.copy()
        redis.give_back()
        copy.send(b"PING\r\n")


def raise_mine(_):
    raise RuntimeError("mine")


def be_interrupted(redis):
    try:
        ask(redis, "BLPOP commpool:none 0")
    except commpool.Error:
        raise KeyboardInterrupt from None


def interrupt(address, tls):
    with commpool.Pool(tls=tls) as pool:
        try:
            pool.communicate(address, be_interrupted, timeout_ms=200)
        except KeyboardInterrupt:
            print("interrupted: yes")
        except commpool.Error as failure:
            print("interrupted:", failure.name)


def speak_of_tls(pool, address, tls):
    info = pool.communicate(address, lambda redis: redis.tls())
    print(f"tls: {info['version']}, peer {info['peer_name']}")
    print("tls unusable:", name_of_failure(lambda: commpool.Tls(ca_file="missing.pem")) + ", " +
          name_of_failure(lambda: tls.reload(ciphers="none")))
    with commpool.Pool() as trusts_others:
        print("tls untrusted:", name_of_failure(lambda: borrow_and_let_go(trusts_others, address)))
    tls.reload()
    print("tls reloaded:", name_of_failure(lambda: borrow_and_let_go(pool, address)))


def blocking(address, tls):
    right = []
    with commpool.Pool(max_per_address=2, tls=tls) as pool:
        print("ping:", pool.communicate(address, lambda redis: ask(redis, "PING")))
        pool.communicate(address, lambda redis: ask(redis, "SET commpool:key value"))

        def work():
            for _ in range(100):
                right.append(pool.communicate(address, lambda redis: ask(redis, "GET commpool:key")) == "value")

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(f"threads: {sum(right)} right, at most 2 connections: {'yes' if pool.total() <= 2 else 'no'}")
        print("refused:", name_of_failure(lambda: borrow_and_let_go(pool, "tcp://127.0.0.1:1")))
        print("address:", name_of_failure(lambda: borrow_and_let_go(pool, "nowhere")))
        before = pool.total()
        try:
            pool.communicate(address, raise_mine)
        except RuntimeError as mine:
            print(f"exception: {mine}, connections closed: {before - pool.total()}")
        print("nested:", pool.communicate(address, lambda outer: "another connection" if pool.communicate(
            address, lambda inner: inner.id) != outer.id else "the same connection"))
        print("stale:", name_of_failure(lambda: use_after_return(pool, address)))
        print("deadline:", name_of_failure(lambda: pool.communicate(
            address, lambda redis: ask(redis, "BLPOP commpool:none 0"), timeout_ms=200)))
        if tls:
            speak_of_tls(pool, address, tls)


async def in_a_loop(address, tls):
    async with commpool.AsyncPool(max_per_address=4, tls=tls) as pool:
        async def work():
            async with pool.borrow(address) as redis:
                return await redis.ask(b"GET commpool:key\r\n", b"value\r\n")

        answers = await asyncio.gather(*(work() for _ in range(200)))
        print("asyncio:", sum(answer == b"$5\r\nvalue\r\n" for answer in answers), "right")
        try:
            async with pool.borrow("tcp://127.0.0.1:1"):
                pass
        except commpool.Error as failure:
            print("asyncio refused:", failure.name)
        try:
            async with pool.borrow(address, timeout_ms=200) as redis:
                await redis.ask(b"BLPOP commpool:none 0\r\n", b"\r\n")
        except commpool.Error as failure:
            print("asyncio deadline:", failure.name)
    async with commpool.AsyncPool(tls=tls) as pool:
        watch, commpool._lib.pool_conn_watch = commpool._lib.pool_conn_watch, lambda *_: -2
        try:
            async with pool.borrow(address, timeout_ms=5000):
                pass
        except commpool.Error as failure:
            print("asyncio out of memory on purpose:", failure.name)
        finally:
            commpool._lib.pool_conn_watch = watch
    before = len(os.listdir("/proc/self/fd"))
    try:
        commpool.AsyncPool(nonsense=1)
    except TypeError:
        print("asyncio refused option, descriptors left:", len(os.listdir("/proc/self/fd")) - before)
    async with commpool.AsyncPool(tls=tls) as pool:
        async with pool.borrow(address) as redis:
            half_read = redis.id
            await redis.ask(b"PING\r\n", b"+PO")
        async with pool.borrow(address) as redis:
            print("asyncio half read:", "another connection" if redis.id != half_read else "the same connection")
            if tls:
                info = redis.tls()
                print(f"asyncio tls: {info['version']}, peer {info['peer_name']}")


if __name__ == "__main__":
    trusted = sys.argv[2] if len(sys.argv) > 2 else None
    blocking(sys.argv[1], trusted and commpool.Tls(ca_file=trusted))
    interrupt(sys.argv[1], trusted and commpool.Tls(ca_file=trusted))
    asyncio.run(in_a_loop(sys.argv[1], trusted and commpool.Tls(ca_file=trusted)))
