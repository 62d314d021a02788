/* address_host.c: the forms of hosts, each accepted in exactly one reading. What two programs
 * might read differently (127.1, 010.0.0.1, 0x7f.1, a name that ends in a number) is refused, so
 * that a text cannot mean one peer to the program that checked it and another one here. */
#include "net/address_host.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define LABEL_MAX 63 /* RFC 1035 */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_hex(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool stands_in_name(char c)
{
    return is_letter(c) || is_digit(c) || c == '-' || c == '_';
}

static char to_lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

/* A last label that other readers take for a part of an IPv4 address: "1", "010", "0x7f". */
static bool is_number_to_others(const char *label, size_t size)
{
    size_t digits = 0, hex = 2;

    while (digits < size && is_digit(label[digits]))
        digits++;
    if (digits == size)
        return true;
    if (size < 2 || label[0] != '0' || to_lower(label[1]) != 'x')
        return false;
    while (hex < size && is_hex(label[hex]))
        hex++;
    return hex == size;
}

static const char *refuse_character(char c)
{
    if ((unsigned char)c >= 0x80)
        return "host names are ASCII (write the xn-- form)";
    return "this character cannot stand in a host name";
}

const char *pl_host_name(struct pool_bytes text, char name[PL_NAME_MAX], size_t *size,
                         size_t *wrong)
{
    const char *from = text.data;
    size_t end = text.size, label = 0;

    if (end > 1 && from[end - 1] == '.' && from[end - 2] != '.')
        end--;
    *size = end;
    for (size_t i = 0; i <= end; i++) {
        *wrong = i;
        if (i < end && i == PL_NAME_MAX)
            return "the host name is longer than 253 bytes";
        if (i < end && from[i] != '.') {
            if (!stands_in_name(from[i]))
                return refuse_character(from[i]);
            if (i - label == LABEL_MAX)
                return "a label of the host name is longer than 63 bytes";
            name[i] = to_lower(from[i]);
            continue;
        }
        if (i == label)
            return end ? "a label of the host name is empty" : "host missing";
        if (i < end) {
            name[i] = '.';
            label = i + 1;
        }
    }
    *wrong = label;
    if (is_number_to_others(name + label, end - label))
        return "neither a name nor an IPv4 address";
    return NULL;
}

bool pl_host_is_dotted(struct pool_bytes text)
{
    const char *bytes = text.data;

    for (size_t i = 0; i < text.size; i++) {
        if (!is_digit(bytes[i]) && bytes[i] != '.')
            return false;
    }
    return text.size > 0;
}

/* inet_pton of `text`, which need not end with a zero byte. */
static bool read_ip(int family, struct pool_bytes text, void *ip)
{
    char terminated[PL_IP_TEXT_SIZE];

    if (text.size >= sizeof(terminated) || memchr(text.data, '\0', text.size))
        return false;
    memcpy(terminated, text.data, text.size);
    terminated[text.size] = '\0';
    return inet_pton(family, terminated, ip) == 1;
}

bool pl_host_ipv4(struct pool_bytes text, struct in_addr *ip)
{
    return text.size && read_ip(AF_INET, text, ip);
}

/* The first of the longest runs of at least two zero groups; *count 0: there is none. */
static size_t find_zeros(const uint16_t groups[8], size_t *count)
{
    size_t best = 0, run = 0;

    *count = 0;
    for (size_t i = 0; i < 8; i++) {
        run = groups[i] ? 0 : run + 1;
        if (run > 1 && run > *count) {
            *count = run;
            best = i + 1 - run;
        }
    }
    return best;
}

/* inet_ntop would write ::1:0 as ::0.1.0.0. */
static void write_ipv6(const struct in6_addr *ip, char canonical[PL_IP_TEXT_SIZE])
{
    const uint8_t *bytes = ip->s6_addr;
    uint16_t groups[8];
    size_t zeros, count, length = 0;

    if (IN6_IS_ADDR_V4MAPPED(ip)) {
        snprintf(canonical, PL_IP_TEXT_SIZE, "::ffff:%u.%u.%u.%u", bytes[12], bytes[13], bytes[14],
                 bytes[15]);
        return;
    }
    for (size_t i = 0; i < 8; i++)
        groups[i] = (uint16_t)(bytes[2 * i] << 8 | bytes[2 * i + 1]);
    zeros = find_zeros(groups, &count);
    canonical[0] = '\0';
    for (size_t i = 0; i < 8; i++) {
        const char *colon = i && !(count && i == zeros + count) ? ":" : "";

        if (count && i == zeros) {
            length += (size_t)snprintf(canonical + length, PL_IP_TEXT_SIZE - length, "::");
            i += count - 1;
            continue;
        }
        length += (size_t)snprintf(canonical + length, PL_IP_TEXT_SIZE - length, "%s%x", colon,
                                   groups[i]);
    }
}

bool pl_host_ipv6(struct pool_bytes text, struct in6_addr *ip, char canonical[PL_IP_TEXT_SIZE])
{
    if (!text.size || !read_ip(AF_INET6, text, ip))
        return false;
    write_ipv6(ip, canonical);
    return true;
}

struct pool_bytes pl_host_cut_zone(struct pool_bytes *text)
{
    const char *from = text->data, *percent = text->size ? memchr(from, '%', text->size) : NULL;
    struct pool_bytes zone = { NULL, 0 };

    if (percent) {
        zone.data = percent + 1;
        zone.size = text->size - (size_t)(percent + 1 - from);
        text->size = (size_t)(percent - from);
    }
    return zone;
}

bool pl_host_is_interface(struct pool_bytes text)
{
    const char *bytes = text.data;
    size_t dots = 0;

    if (!text.size || text.size >= IF_NAMESIZE)
        return false;
    for (size_t i = 0; i < text.size; i++) {
        if (!stands_in_name(bytes[i]) && bytes[i] != '.')
            return false;
        dots += bytes[i] == '.';
    }
    return dots < text.size || text.size > 2;
}

unsigned pl_host_interface_index(struct pool_bytes text)
{
    const char *bytes = text.data;
    uint64_t index = 0;

    if (!text.size || text.size > 10 || bytes[0] == '0')
        return 0;
    for (size_t i = 0; i < text.size; i++) {
        if (!is_digit(bytes[i]))
            return 0;
        index = index * 10 + (uint64_t)(bytes[i] - '0');
    }
    return index <= INT32_MAX ? (unsigned)index : 0;
}
