/* Stands in for libnvidia-ml.so.1 behind the real pynvml, and says what a file tells it to say.

   $NVML_SCRIPT names a text file of lines "key value", read anew at every call, so that a test
   can change what happens while the agent looks on. Keys (N is a card's index):

     count, init                     number of cards; return code of nvmlInit
     N.util N.used_mib N.total_mib N.power_mw N.temp N.throttle N.sm N.mem N.ecc N.pid N.xid
     N.FUNCTION or FUNCTION          return code of that function for one card, or for all

   A key that is not there has the value given in the code below. The types are those of nvml.h;
   only what the agent asks for is here, as with an older driver. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { int index; } card_t;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } memory_v2_t;
typedef struct { unsigned int gpu, memory; } utilization_t;
typedef struct {
    unsigned int pid;
    unsigned long long used;
    unsigned int gpu_instance, compute_instance;
} process_t;
typedef struct {
    card_t *card;
    unsigned long long type, data;
    unsigned int gpu_instance, compute_instance;
} event_t;

enum { OK = 0, UNINITIALIZED = 1, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7, TIMEOUT = 10 };
enum { CARDS = 16 };

static card_t cards[CARDS];
static int initialised, told_xid[CARDS], event_set;

static long long value(const char *key, long long otherwise) {
    const char *path = getenv("NVML_SCRIPT");
    FILE *file = path ? fopen(path, "r") : NULL;
    char name[128];
    long long number, found = otherwise;
    if (!file) return otherwise;
    while (fscanf(file, "%127s %lld", name, &number) == 2)
        if (!strcmp(name, key)) found = number;
    fclose(file);
    return found;
}

static long long of_card(const card_t *card, const char *what, long long otherwise) {
    char key[128];
    snprintf(key, sizeof key, "%d.%s", card->index, what);
    return value(key, otherwise);
}

static int code(const card_t *card, const char *function) {
    if (!initialised) return UNINITIALIZED;
    return (int)(card ? of_card(card, function, value(function, OK)) : value(function, OK));
}

#define CARD_CALL(name) { int failed = code(card, name); if (failed) return failed; }
#define CALL(name) { int failed = code(NULL, name); if (failed) return failed; }

int nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    int failed = (int)value("init", OK);
    if (failed) return failed;
    for (int at = 0; at < CARDS; at++) cards[at].index = at;
    initialised = 1;
    return OK;
}

int nvmlShutdown(void) { initialised = 0; return OK; }

const char *nvmlErrorString(int number) {
    switch (number) {
        case 9: return "Driver Not Loaded";
        case 15: return "GPU is lost";
        case 16: return "GPU requires reset";
        default: return "Some other error";
    }
}

int nvmlDeviceGetCount_v2(unsigned int *count) {
    CALL("nvmlDeviceGetCount_v2")
    *count = (unsigned int)value("count", 1);
    return OK;
}

int nvmlSystemGetDriverVersion(char *text, unsigned int length) {
    CALL("nvmlSystemGetDriverVersion")
    snprintf(text, length, "535.129.03");
    return OK;
}

int nvmlSystemGetCudaDriverVersion(int *version) {
    CALL("nvmlSystemGetCudaDriverVersion")
    *version = (int)value("cuda", 12020);
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, card_t **handle) {
    card_t *card = &cards[index];
    CARD_CALL("nvmlDeviceGetHandleByIndex_v2")
    *handle = card;
    return OK;
}

int nvmlDeviceGetName(card_t *card, char *text, unsigned int length) {
    CARD_CALL("nvmlDeviceGetName")
    snprintf(text, length, "Stand-in %d", card->index);
    return OK;
}

int nvmlDeviceGetUtilizationRates(card_t *card, utilization_t *rates) {
    CARD_CALL("nvmlDeviceGetUtilizationRates")
    rates->gpu = (unsigned int)of_card(card, "util", 97);
    rates->memory = 0;
    return OK;
}

int nvmlDeviceGetMemoryInfo(card_t *card, memory_t *memory) {
    CARD_CALL("nvmlDeviceGetMemoryInfo")
    memory->total = (unsigned long long)of_card(card, "total_mib", 24576) << 20;
    memory->used = (unsigned long long)of_card(card, "used_mib", 18000) << 20;
    memory->free = memory->total - memory->used;
    return OK;
}

int nvmlDeviceGetMemoryInfo_v2(card_t *card, memory_v2_t *memory) {
    CARD_CALL("nvmlDeviceGetMemoryInfo_v2")
    memory->total = (unsigned long long)of_card(card, "total_mib", 24576) << 20;
    memory->used = (unsigned long long)of_card(card, "used_mib", 18000) << 20;
    memory->reserved = 0;
    memory->free = memory->total - memory->used;
    return OK;
}

int nvmlDeviceGetPowerUsage(card_t *card, unsigned int *milliwatts) {
    CARD_CALL("nvmlDeviceGetPowerUsage")
    *milliwatts = (unsigned int)of_card(card, "power_mw", 310000);
    return OK;
}

int nvmlDeviceGetEnforcedPowerLimit(card_t *card, unsigned int *milliwatts) {
    CARD_CALL("nvmlDeviceGetEnforcedPowerLimit")
    *milliwatts = 350000;
    return OK;
}

int nvmlDeviceGetTemperature(card_t *card, unsigned int sensor, unsigned int *degrees) {
    (void)sensor;
    CARD_CALL("nvmlDeviceGetTemperature")
    *degrees = (unsigned int)of_card(card, "temp", 64);
    return OK;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(card_t *card, unsigned long long *reasons) {
    CARD_CALL("nvmlDeviceGetCurrentClocksThrottleReasons")
    *reasons = (unsigned long long)of_card(card, "throttle", 0x4);
    return OK;
}

int nvmlDeviceGetClockInfo(card_t *card, unsigned int type, unsigned int *megahertz) {
    CARD_CALL("nvmlDeviceGetClockInfo")
    *megahertz = (unsigned int)(type == 1 ? of_card(card, "sm", 1695) : of_card(card, "mem", 9501));
    return OK;
}

int nvmlDeviceGetCudaComputeCapability(card_t *card, int *major, int *minor) {
    CARD_CALL("nvmlDeviceGetCudaComputeCapability")
    *major = (int)of_card(card, "capability", 8);
    *minor = 6;
    return OK;
}

int nvmlDeviceGetTotalEccErrors(
    card_t *card, unsigned int type, unsigned int counter, unsigned long long *count
) {
    (void)type;
    (void)counter;
    CARD_CALL("nvmlDeviceGetTotalEccErrors")
    *count = (unsigned long long)of_card(card, "ecc", 0);
    return OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(card_t *card, unsigned int *count, process_t *list) {
    CARD_CALL("nvmlDeviceGetComputeRunningProcesses_v3")
    long long pid = of_card(card, "pid", 0);
    unsigned int room = *count;
    *count = pid ? 1 : 0;
    if (!pid) return OK;
    if (room < 1) return INSUFFICIENT_SIZE;
    memset(list, 0, sizeof *list);
    list->pid = (unsigned int)pid;
    return OK;
}

int nvmlEventSetCreate(int **set) {
    CALL("nvmlEventSetCreate")
    *set = &event_set;
    return OK;
}

int nvmlDeviceRegisterEvents(card_t *card, unsigned long long types, int *set) {
    (void)types;
    (void)set;
    CARD_CALL("nvmlDeviceRegisterEvents")
    return OK;
}

int nvmlEventSetWait_v2(int *set, event_t *event, unsigned int milliseconds) {
    (void)set;
    (void)milliseconds;
    CALL("nvmlEventSetWait_v2")
    for (int at = 0; at < CARDS; at++) {
        long long xid = of_card(&cards[at], "xid", 0);
        if (!xid || xid == told_xid[at]) continue;
        told_xid[at] = (int)xid;
        memset(event, 0, sizeof *event);
        event->card = &cards[at];
        event->type = 8;
        event->data = (unsigned long long)xid;
        return OK;
    }
    return TIMEOUT;
}

int nvmlEventSetFree(int *set) { (void)set; return OK; }
