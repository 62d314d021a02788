// redis.cpp: what the bindings' test asks of every language, in C++ (examples/python/redis.py is
// its twin and prints the same lines).
//
//     redis tcp://127.0.0.1:6379
//     redis tls://127.0.0.1:6380 ca.pem
//
// With TLS it does the same and says a few things more.
#include "commpool.hpp"

#include <atomic>
#include <iostream>
#include <memory>
#include <thread>
#include <vector>

using commpool::connection;

static std::string ask(connection &redis, const std::string &command)
{
    redis.send(command + "\r\n");
    std::string line(redis.receive_until("\r\n"));

    if (line[0] != '$')
        return line.substr(0, line.size() - 2);
    std::string bytes = redis.receive_exactly(std::stoul(line.substr(1)) + 2);
    return bytes.substr(0, bytes.size() - 2);
}

template <typename Try> static std::string name_of_failure(Try &&attempt)
{
    try {
        attempt();
    } catch (const commpool::error &failure) {
        return failure.name();
    }
    return "none";
}

static pool_options two_at_most(pool_tls *tls)
{
    pool_options options;

    pool_options_init(&options);
    options.max_per_address = 2;
    options.tls = tls;
    return options;
}

static pool_tls_options trusting(const char *ca_file)
{
    pool_tls_options options;

    pool_tls_options_init(&options);
    options.ca_file = ca_file;
    return options;
}

static void speak_of_tls(commpool::pool &pool, const char *address, commpool::tls &tls)
{
    pool_tls_options missing = trusting("missing.pem"), nobody = trusting(nullptr);

    nobody.ciphers = "none";
    std::cout << "tls: " << pool.communicate(address, [](connection &r) {
        pool_tls_info info = r.tls_info();
        return std::string(info.version) + ", peer " + info.peer_name;
    }) << "\n";
    std::cout << "tls unusable: " << name_of_failure([&] { commpool::tls unusable(&missing); })
              << ", " << name_of_failure([&] { tls.reload(&nobody); }) << "\n";
    std::cout << "tls untrusted: " << name_of_failure([&] {
        commpool::pool trusts_others;
        trusts_others.borrow(address);
    }) << "\n";
    tls.reload(nullptr);
    std::cout << "tls reloaded: " << name_of_failure([&] { pool.borrow(address); }) << "\n";
}

int main(int argc, char **argv)
try {
    const char *address = argc > 1 ? argv[1] : "tcp://127.0.0.1:6379";
    pool_tls_options trusted = trusting(argc > 2 ? argv[2] : nullptr);
    auto tls = argc > 2 ? std::make_unique<commpool::tls>(&trusted) : nullptr;
    pool_options options = two_at_most(tls ? tls->get() : nullptr);
    commpool::pool pool(&options);
    std::atomic<int> right{ 0 };
    std::vector<std::thread> threads;
    pool_call hasty;

    std::cout << "ping: " << pool.communicate(address, [](connection &r) { return ask(r, "PING"); })
              << "\n";
    pool.communicate(address, [](connection &r) { ask(r, "SET commpool:key value"); });
    for (int i = 0; i < 4; i++)
        threads.emplace_back([&] {
            for (int j = 0; j < 100; j++)
                right += pool.communicate(address, [](connection &r) {
                    return ask(r, "GET commpool:key");
                }) == "value";
        });
    for (auto &thread : threads)
        thread.join();
    std::cout << "threads: " << right << " right, at most 2 connections: "
              << (pool.stats().total <= 2 ? "yes" : "no") << "\n";
    std::cout << "refused: " << name_of_failure([&] { pool.borrow("tcp://127.0.0.1:1"); }) << "\n";
    std::cout << "address: " << name_of_failure([&] { pool.borrow("nowhere"); }) << "\n";

    uint64_t before = pool.stats().total;
    try {
        pool.communicate(address, [](connection &) { throw std::runtime_error("mine"); });
    } catch (const std::runtime_error &mine) {
        std::cout << "exception: " << mine.what() << ", connections closed: "
                  << before - pool.stats().total << "\n";
    }
    std::cout << "nested: " << pool.communicate(address, [&](connection &outer) {
        uint64_t inner = pool.communicate(address, [](connection &r) { return r.id(); });
        return inner != outer.id() ? "another connection" : "the same connection";
    }) << "\n";
    std::cout << "stale: " << name_of_failure([&] {
        commpool::loan loan = pool.borrow(address);
        connection copy(*loan.handle());
        loan.give_back();
        copy.send("PING\r\n");
    }) << "\n";
    pool_call_init(&hasty);
    hasty.timeout_ms = 200;
    std::cout << "deadline: " << name_of_failure([&] {
        pool.communicate(address, [](connection &r) { ask(r, "BLPOP commpool:none 0"); }, &hasty);
    }) << "\n";

    if (tls)
        speak_of_tls(pool, address, *tls);

    // No other language can say its size wrong.
    hasty.size = 1;
    std::string untold = name_of_failure([&] { pool.borrow(address, &hasty); });
    return untold == "POOL_E_ARGUMENT" ? 0 : 1;
} catch (const std::exception &failure) {
    std::cerr << "redis: " << failure.what() << "\n";
    return 1;
}
