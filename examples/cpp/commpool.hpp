// commpool.hpp: commpool for C++17, a small header over the C library.
//
//     commpool::pool pool;
//     std::string pong = pool.communicate("tcp://127.0.0.1:6379", [](commpool::connection &redis) {
//         redis.send("PING\r\n");
//         return std::string(redis.receive_until("\r\n"));
//     });
//
// What the C library answers with a status is thrown as commpool::error here. An exception that
// leaves the function of communicate() closes the connection and comes out of communicate(): none
// passes through the library itself. Threads and lifetimes are those of the C functions, which each
// member names by its own name; all of them can be mixed with the C interface.
#ifndef COMMPOOL_HPP
#define COMMPOOL_HPP

#include <commpool/pool.h>

#include <exception>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace commpool {

// A failure: its text is one sentence for a log, details() has the rest.
class error : public std::runtime_error {
public:
    explicit error(const pool_error &told)
        : std::runtime_error(told.text[0] ? told.text : pool_status_text(told.status)), told_(told)
    {
    }

    explicit error(pool_status status) : std::runtime_error(pool_status_text(status))
    {
        told_.status = status;
        told_.outcome = POOL_MAYBE_SENT; // nobody knows better here
    }

    pool_status status() const noexcept { return told_.status; }
    const char *name() const noexcept { return pool_status_name(told_.status); }
    const pool_error &details() const noexcept { return told_; }

private:
    pool_error told_{};
};

inline void check(pool_status status)
{
    if (status != POOL_OK)
        throw error(status);
}

// A connection that somebody else lends: inside communicate(), or in a callback.
class connection {
public:
    explicit connection(pool_conn handle) noexcept : handle_(handle) {}

    void send(std::string_view bytes)
    {
        check_io(pool_send(&handle_, bytes.data(), bytes.size()));
    }

    // The bytes are good until the next I/O on the connection, or its return.
    std::string_view receive_until(std::string_view delimiter)
    {
        pool_bytes bytes{};

        check_io(pool_recv_until(&handle_, delimiter.data(), delimiter.size(), &bytes));
        return { static_cast<const char *>(bytes.data), bytes.size };
    }

    std::string receive_exactly(size_t size)
    {
        std::string bytes(size, '\0');

        check_io(pool_recv_exact(&handle_, bytes.data(), size));
        return bytes;
    }

    // What the handshake agreed on; the texts are good as long as the handle.
    pool_tls_info tls_info() const
    {
        pool_tls_info info{};

        info.size = sizeof(info);
        check(pool_conn_tls(&handle_, &info));
        return info;
    }

    uint64_t id() const noexcept { return pool_conn_id(&handle_); }
    pool_conn *handle() noexcept { return &handle_; }

protected:
    // A failure of the connection knows the peer, the phase and what was sent.
    void check_io(pool_status status)
    {
        pool_error told{};

        if (status == POOL_OK)
            return;
        told.size = sizeof(told);
        if (pool_conn_error(&handle_, &told) == POOL_OK && told.status != POOL_OK)
            throw error(told);
        throw error(status);
    }

    pool_conn handle_;
};

// A connection borrowed by hand: returned when this goes out of scope, discarded when that happens
// because of an exception.
class loan : public connection {
public:
    explicit loan(pool_conn handle) noexcept
        : connection(handle), exceptions_(std::uncaught_exceptions())
    {
    }

    loan(loan &&other) noexcept : connection(other.handle_), exceptions_(other.exceptions_)
    {
        other.handle_ = {};
    }

    loan &operator=(loan &&) = delete;

    ~loan()
    {
        if (std::uncaught_exceptions() > exceptions_)
            pool_discard(&handle_);
        else
            pool_return(&handle_);
    }

    void give_back() { check(pool_return(&handle_)); }
    void discard() { check(pool_discard(&handle_)); }

private:
    int exceptions_;
};

// TLS settings, for the field `tls` of the options of any number of pools, by get(). The options
// come from pool_tls_options_init(); all defaults without.
class tls {
public:
    explicit tls(const pool_tls_options *options = nullptr)
    {
        pool_error told{};

        told.size = sizeof(told);
        if (pool_tls_create(options, &tls_, &told) != POOL_OK)
            throw error(told);
    }

    ~tls() { pool_tls_free(tls_); }
    tls(const tls &) = delete;
    tls &operator=(const tls &) = delete;

    // From now on new connections use these, and old ones are not lent again. When it throws,
    // nothing has changed.
    void reload(const pool_tls_options *options)
    {
        pool_error told{};

        told.size = sizeof(told);
        if (pool_tls_reload(tls_, options, &told) != POOL_OK)
            throw error(told);
    }

    pool_tls *get() const noexcept { return tls_; }

private:
    pool_tls *tls_ = nullptr;
};

class pool {
public:
    // `options` from pool_options_init(); all defaults without.
    explicit pool(const pool_options *options = nullptr) { check(pool_create(options, &pool_)); }
    ~pool() { pool_destroy(pool_); }
    pool(const pool &) = delete;
    pool &operator=(const pool &) = delete;

    // Borrows, runs use(connection), returns the connection, and answers what `use` answered.
    template <typename Use>
    auto communicate(const char *address, Use &&use, const pool_call *given = nullptr)
        -> std::invoke_result_t<Use &, connection &>
    {
        using answer = std::invoke_result_t<Use &, connection &>;

        if constexpr (std::is_void_v<answer>) {
            run(address, [&use](connection &conn) { use(conn); }, given);
        } else {
            answer result{};

            run(address, [&](connection &conn) { result = use(conn); }, given);
            return result;
        }
    }

    loan borrow(const char *address, const pool_call *given = nullptr)
    {
        pool_error told{};
        pool_call call = with_error(given, &told);
        pool_conn conn{};
        pool_status status = pool_borrow(pool_, address, &call, &conn);

        if (status != POOL_OK)
            throw failure(status, told);
        return loan(conn);
    }

    struct pool_stats stats() const
    {
        struct pool_stats stats{};

        stats.size = sizeof(stats);
        check(::pool_stats(pool_, &stats));
        return stats;
    }

    ::pool *get() const noexcept { return pool_; }

private:
    struct job {
        const std::function<void(connection &)> &use;
        std::exception_ptr thrown;
    };

    static int use_it(pool_conn *conn, void *user) noexcept
    {
        auto *asked = static_cast<job *>(user);

        try {
            connection lent(*conn);

            asked->thrown = nullptr; // it may be run again
            asked->use(lent);
            return 0;
        } catch (...) {
            asked->thrown = std::current_exception();
            return -1;
        }
    }

    // The error that `given` names is not written: what failed is thrown.
    static pool_call with_error(const pool_call *given, pool_error *told)
    {
        pool_call call;

        pool_call_init(&call);
        if (given)
            call = *given;
        told->size = sizeof(*told);
        call.error = told;
        return call;
    }

    // A call whose settings cannot be read fails untold.
    static error failure(pool_status status, const pool_error &told)
    {
        return told.status == status ? error(told) : error(status);
    }

    void run(const char *address, const std::function<void(connection &)> &use,
             const pool_call *given)
    {
        pool_error told{};
        pool_call call = with_error(given, &told);
        job asked{ use, nullptr };
        pool_status status = pool_communicate(pool_, address, use_it, &asked, &call);

        // The connection's own failure says more than the exception that it caused.
        if (asked.thrown && (status == POOL_OK || status == POOL_E_USER))
            std::rethrow_exception(asked.thrown);
        if (status != POOL_OK)
            throw failure(status, told);
    }

    ::pool *pool_ = nullptr;
};

} // namespace commpool

#endif
