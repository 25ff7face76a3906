/* A link between two hosts, in user space, for kernels without netem: two TUN devices, and between
 * them a rate, a delay and random loss, both directions alike.
 *
 *     tunlink NAME_A NAME_B RATE_MBIT DELAY_US LOSS_PERCENT QUEUE_BYTES SEED MAX_SECONDS
 *
 * Makes both devices in its own network namespace, prints a line of JSON when they are there, and
 * carries packets until it is told to end (SIGTERM) or MAX_SECONDS have passed. A packet (MTU 1500,
 * no offload) is charged its length and 38 bytes of Ethernet around it. QUEUE_BYTES is what may be
 * on its way in one direction, the delay included: more is lost. A device that is down loses all.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 8192       /* packets on their way in one direction; a power of 2 */
#define LARGEST 2048     /* bytes of one */
#define BURST 32         /* taken in from one device before the other is looked at */
#define AROUND 38        /* preamble, Ethernet header, checksum and gap */
#define SECOND 1000000000LL

struct packet {
    int64_t due; /* ns, when it arrives at the other end */
    int length;
    unsigned char bytes[LARGEST];
};

struct direction {
    struct packet *queue;
    unsigned first, end;   /* of the packets on their way; they only grow */
    int64_t free_at;       /* ns, when the wire has sent what it was given */
    int64_t waiting;       /* bytes on their way */
    unsigned long carried, lost, overflown;
};

static volatile sig_atomic_t stopped;
static double ns_per_byte, loss;
static int64_t delay, queue_bytes;
static uint64_t randomness;

static void stop(int signal) {
    (void)signal;
    stopped = 1;
}

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

static double uniform(void) { /* xorshift64, 53 bits of it */
    randomness ^= randomness << 13;
    randomness ^= randomness >> 7;
    randomness ^= randomness << 17;
    return (randomness >> 11) * (1.0 / 9007199254740992.0);
}

static int open_device(const char *name) {
    struct ifreq request;
    int device = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
    if (device < 0) {
        perror("/dev/net/tun");
        exit(1);
    }
    memset(&request, 0, sizeof request);
    request.ifr_flags = IFF_TUN | IFF_NO_PI;
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    if (ioctl(device, TUNSETIFF, &request) < 0) {
        perror(name);
        exit(1);
    }
    return device;
}

/* Put what has come from the device on its way. How many packets that were. */
static int take_in(int device, struct direction *way) {
    int count = 0;
    while (count < BURST && way->end - way->first < SLOTS) {
        struct packet *packet = &way->queue[way->end % SLOTS];
        int length = read(device, packet->bytes, LARGEST);
        if (length <= 0) break;
        count++;
        if (loss > 0 && uniform() < loss) {
            way->lost++;
            continue;
        }
        if (way->waiting + length > queue_bytes) {
            way->overflown++;
            continue;
        }
        int64_t t = now(), starts = way->free_at > t ? way->free_at : t;
        way->free_at = starts + (int64_t)((length + AROUND) * ns_per_byte);
        packet->due = way->free_at + delay;
        packet->length = length;
        way->waiting += length;
        way->end++;
    }
    return count;
}

/* Hand over what is due. How many packets that were. */
static int hand_over(int device, struct direction *way) {
    int64_t t = now();
    int count = 0;
    while (way->first != way->end) {
        struct packet *packet = &way->queue[way->first % SLOTS];
        if (packet->due > t) break;
        /* Other errors than a full device: it is down, and the packet is lost. */
        if (write(device, packet->bytes, packet->length) < 0 && errno == EAGAIN) break;
        way->waiting -= packet->length;
        way->carried++;
        way->first++;
        count++;
    }
    return count;
}

static int64_t next_due(const struct direction *way, int64_t otherwise) {
    if (way->first == way->end) return otherwise;
    int64_t due = way->queue[way->first % SLOTS].due;
    return due < otherwise ? due : otherwise;
}

int main(int count, char **words) {
    if (count != 9) {
        fprintf(stderr, "usage: see the head of the source\n");
        return 2;
    }
    int devices[2] = {open_device(words[1]), open_device(words[2])};
    ns_per_byte = 8000.0 / atof(words[3]);
    delay = atoll(words[4]) * 1000;
    loss = atof(words[5]) / 100;
    queue_bytes = atoll(words[6]);
    randomness = 88172645463325252ULL ^ ((uint64_t)atoll(words[7]) * 2654435761u);
    int64_t end = now() + atoll(words[8]) * SECOND;

    struct direction ways[2] = {{0}, {0}};
    for (int i = 0; i < 2; i++) {
        ways[i].queue = calloc(SLOTS, sizeof(struct packet));
        if (!ways[i].queue) {
            perror("memory");
            return 1;
        }
    }
    signal(SIGTERM, stop);
    prctl(PR_SET_TIMERSLACK, 1);
    setpriority(PRIO_PROCESS, 0, -10); /* a link does not wait for a core; without leave, it does */
    puts("{\"ready\": true}");
    fflush(stdout);

    while (!stopped && now() < end) {
        int busy = 0;
        for (int i = 0; i < 2; i++) {
            busy += take_in(devices[i], &ways[i]);
            busy += hand_over(devices[1 - i], &ways[i]);
        }
        if (busy) continue;
        int64_t t = now(), due = next_due(&ways[1], next_due(&ways[0], t + SECOND));
        /* A device that was full is tried again soon. */
        int64_t pause = due > t ? due - t : 50000;
        struct timespec wait = {pause / SECOND, pause % SECOND};
        struct pollfd polled[2] = {{devices[0], POLLIN, 0}, {devices[1], POLLIN, 0}};
        ppoll(polled, 2, &wait, NULL);
    }
    for (int i = 0; i < 2; i++)
        fprintf(stderr, "direction %d: carried %lu, lost %lu, overflown %lu\n", i, ways[i].carried,
                ways[i].lost, ways[i].overflown);
    return 0;
}
