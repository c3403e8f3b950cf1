/* A libnvidia-ml.so.1 for tests: two GPUs, and whatever the file NVML_STUB says, read at every call.
 *
 * That file has lines of `key value`. For the library: `count`, `init` (what nvmlInit returns),
 * `fails_after` (so many readings after nvmlInit, all of them return 999), `hang` (while there, no
 * reading returns). For GPU i: `used<i>` and `total<i>` (MiB), `util<i>`, `temp<i>`, `power<i>` (mW)
 * with a number, or `!N` to return N; `uuid<i>` (the last digits), `name<i>`, `bus<i>`, `mig<i>`,
 * and `code<i>`: what every question about it returns. Utilisation changes with every reading where nobody says what it is.
 *
 * Whoever calls from the main thread, where event loops run, is aborted. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, TOO_SMALL = 7, UNKNOWN = 999 };
enum { MOST = 128 };
typedef struct { unsigned number; } gpu;
typedef struct { unsigned long long total, free, used; } memory;
typedef struct { unsigned gpu, memory; } rates;
typedef struct {
    char legacy[16];
    unsigned domain, bus, device, id, subsystem;
    char text[32];
} pci;

static gpu gpus[MOST];
static int users, readings;

static int say(const char *key, char *value, size_t size)
{
    const char *path = getenv("NVML_STUB");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[256];
    size_t length = strlen(key);
    int found = 0;

    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, key, length) && line[length] == ' ') {
            line[strcspn(line, "\n")] = 0;
            snprintf(value, size, "%s", line + length + 1);
            found = 1;
        }
    if (file)
        fclose(file);
    return found;
}

static int say_of(const gpu *of, const char *what, char *value, size_t size)
{
    char key[32];
    snprintf(key, sizeof key, "%s%u", what, of->number);
    return say(key, value, size);
}

static long number(const char *key, long otherwise)
{
    char value[128];
    return say(key, value, sizeof value) ? atol(value) : otherwise;
}

/* Every question comes by here. */
static int ask(const gpu *of, const char *what, long otherwise, long *answer)
{
    char value[128], ignored[128];
    long after = number("fails_after", -1);

    if (gettid() == getpid()) {
        fputs("NVML was called from the main thread\n", stderr);
        abort();
    }
    if (!users)
        return UNINITIALIZED;
    while (say("hang", ignored, sizeof ignored))
        usleep(10000);
    if (after >= 0 && ++readings > after)
        return UNKNOWN;
    if (of && say_of(of, "code", value, sizeof value))
        return atoi(value);
    *answer = otherwise;
    if (!of || !say_of(of, what, value, sizeof value))
        return OK;
    *answer = atol(value);
    return value[0] == '!' ? atoi(value + 1) : OK;
}

static int copy(char *into, unsigned size, const char *text)
{
    if (strlen(text) >= size)
        return TOO_SMALL;
    strcpy(into, text);
    return OK;
}

int nvmlInitWithFlags(unsigned flags)
{
    int code = number("init", OK);
    (void)flags;
    if (gettid() == getpid())
        abort();
    if (code)
        return code;
    if (!users++)
        readings = 0;
    return OK;
}

int nvmlShutdown(void)
{
    if (!users)
        return UNINITIALIZED;
    users--;
    return OK;
}

const char *nvmlErrorString(int code)
{
    return code == UNKNOWN ? "Unknown Error" : "an error of the stub";
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
    long ignored;
    int code = ask(NULL, "", 0, &ignored);
    *count = number("count", 2);
    return code;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, gpu **handle)
{
    long ignored;
    if (index >= MOST || index >= number("count", 2))
        return INVALID;
    gpus[index].number = index;
    *handle = &gpus[index];
    return ask(*handle, "handle", 0, &ignored);
}

int nvmlDeviceGetUUID(gpu *of, char *into, unsigned size)
{
    char text[64];
    long last;
    int code = ask(of, "uuid", of->number, &last);
    snprintf(text, sizeof text, "GPU-00000000-0000-0000-0000-%012ld", last);
    return code ? code : copy(into, size, text);
}

int nvmlDeviceGetName(gpu *of, char *into, unsigned size)
{
    char text[128];
    long ignored;
    int code = ask(of, "", 0, &ignored);
    if (!say_of(of, "name", text, sizeof text))
        strcpy(text, "NVIDIA Stub 24GB");
    return code ? code : copy(into, size, text);
}

int nvmlDeviceGetPciInfo_v3(gpu *of, pci *info)
{
    long bus;
    int code = ask(of, "bus", of->number + 1, &bus);
    memset(info, 0, sizeof *info);
    info->bus = bus;
    return code;
}

int nvmlDeviceGetMigMode(gpu *of, unsigned *now, unsigned *pending)
{
    long mode;
    int code = ask(of, "mig", -1, &mode);
    *now = *pending = mode;
    return code ? code : mode < 0 ? NOT_SUPPORTED : OK;
}

int nvmlDeviceGetMemoryInfo(gpu *of, memory *info)
{
    long used, total;
    int code = ask(of, "used", 1024 * (of->number + 1), &used);
    if (!code)
        code = ask(of, "total", 24576, &total);
    if (code)
        return code;
    info->total = (unsigned long long)total << 20;
    info->used = (unsigned long long)used << 20;
    info->free = info->total - info->used;
    return OK;
}

int nvmlDeviceGetUtilizationRates(gpu *of, rates *info)
{
    static unsigned tick;
    long busy;
    int code = ask(of, "util", ++tick % 101, &busy);
    info->gpu = info->memory = busy;
    return code;
}

int nvmlDeviceGetTemperature(gpu *of, int sensor, unsigned *celsius)
{
    long value;
    int code = ask(of, "temp", 40 + of->number, &value);
    (void)sensor;
    *celsius = value;
    return code;
}

int nvmlDeviceGetPowerUsage(gpu *of, unsigned *milliwatts)
{
    long value;
    int code = ask(of, "power", 60500 + 1000 * of->number, &value);
    *milliwatts = value;
    return code;
}
