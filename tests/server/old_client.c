/* A client as they were written in C for the old servers: blocking opens, in an order of its own.
 * Compiled with -DDIGITS it writes op bytes as ASCII digits, and pads its disconnect to 42 bytes.
 *
 *   old_client ORDER REGISTRATION REQUESTS RESPONSES NOTIFICATIONS KEY COUNT
 *
 * ORDER: a letter for each step, q r n to open requests, responses, notifications, c to read the
 * reply to the connect.
 * Makes its pipes with the permissions 0666, as far as the umask lets it.
 * Subscribes to KEY, prints what came back, then COUNT notifications, and disconnects.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef DIGITS
enum { OP_CONNECT = '1', OP_DISCONNECT = '2', OP_SUBSCRIBE = '3', DISCONNECT_BYTES = 42 };
#else
enum { OP_CONNECT = 1, OP_DISCONNECT = 2, OP_SUBSCRIBE = 3, DISCONNECT_BYTES = 1 };
#endif

static int open_or_die(const char *path, int flags)
{
    int fd = open(path, flags);
    if (fd < 0) {
        perror(path);
        exit(1);
    }
    return fd;
}

static void read_all(int fd, char *buffer, size_t size)
{
    while (size > 0) {
        ssize_t got = read(fd, buffer, size);
        if (got <= 0) {
            fprintf(stderr, "the server has gone\n");
            exit(1);
        }
        buffer += got;
        size -= (size_t)got;
    }
}

static void reply(int fd)
{
    char answer[2];
    read_all(fd, answer, sizeof answer);
    printf("%d %d\n", answer[0], answer[1]);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    if (argc != 8)
        return 2;
    int requests = -1, responses = -1, notifications = -1;
    char connect[121] = {OP_CONNECT}, request[42] = {OP_SUBSCRIBE}, change[82];
    for (int i = 0; i < 3; i++) {
        unlink(argv[3 + i]);
        if (mkfifo(argv[3 + i], 0666) != 0) {
            perror(argv[3 + i]);
            return 1;
        }
        strncpy(connect + 1 + 40 * i, argv[3 + i], 40);
    }
    int registration = open_or_die(argv[2], O_WRONLY);
    if (write(registration, connect, sizeof connect) != sizeof connect)
        return 1;
    close(registration);
    for (const char *step = argv[1]; *step; step++) {
        if (*step == 'q')
            requests = open_or_die(argv[3], O_WRONLY);
        else if (*step == 'r')
            responses = open_or_die(argv[4], O_RDONLY);
        else if (*step == 'n')
            notifications = open_or_die(argv[5], O_RDONLY);
        else
            reply(responses);
    }
    strncpy(request + 1, argv[6], 41);
    if (write(requests, request, sizeof request) != sizeof request)
        return 1;
    reply(responses);
    for (int left = atoi(argv[7]); left > 0; left--) {
        read_all(notifications, change, sizeof change);
        printf("(%s,%s)\n", change, change + 41);
        fflush(stdout);
    }
    request[0] = OP_DISCONNECT;
    if (write(requests, request, DISCONNECT_BYTES) != DISCONNECT_BYTES)
        return 1;
    reply(responses);
    close(requests);
    while (read(notifications, change, sizeof change) > 0)
        ;
    printf("end\n");
    return 0;
}
