/* A fake CUDA driver for tests: the signatures of cuda.h (CUDA driver API, version 12), a log instead of a GPU.
   Handles lie above 32 bits, so that a truncated pointer shows; "device" memory is host memory. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef void *CUhandle;

static char log_text[65536];
static long live_allocations, made_handles;
static size_t limit = 1u << 30;

static CUresult note(const char *name) {
  strcat(log_text, name);
  strcat(log_text, " ");
  return 0;
}
static CUhandle handle(void) { return (CUhandle)(size_t)(0x7f0000000000ull + ++made_handles); }

const char *fake_log(void) { return log_text; }
void fake_clear(void) { log_text[0] = 0; }
long fake_live(void) { return live_allocations; }

CUresult cuInit(unsigned int flags) { return flags ? 1 : note("init"); }
CUresult cuDeviceGet(CUdevice *d, int ordinal) { *d = ordinal + 7; return 0; }
CUresult cuDeviceGetName(char *name, int length, CUdevice d) { snprintf(name, length, "Fake GPU %d", d); return 0; }
CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice d) {
  if (d != 7) return 101;
  *value = attribute == 75 ? 8 : attribute == 76 ? 6 : 0;
  return 0;
}
CUresult cuDevicePrimaryCtxRetain(CUhandle *c, CUdevice d) { *c = (CUhandle)0x7effffffffffull; return d == 7 ? note("retain") : 101; }
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice d) { return d == 7 ? note("release") : 101; }
CUresult cuCtxSetCurrent(CUhandle c) { return c == (CUhandle)0x7effffffffffull ? 0 : 201; }
CUresult cuCtxSynchronize(void) { return note("ctxsync"); }
CUresult cuMemGetInfo_v2(size_t *free_B, size_t *total_B) { *free_B = 6000000000ull; *total_B = 8000000000ull; return 0; }
CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t size) {
  if (size > limit) return 2;
  if (size == 0) return 1;
  *address = (CUdeviceptr)(size_t)malloc(size);
  live_allocations++;
  return 0;
}
CUresult cuMemFree_v2(CUdeviceptr address) { free((void *)(size_t)address); live_allocations--; return 0; }
CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t size) { memcpy((void *)(size_t)to, from, size); return note("up"); }
CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t size) { memcpy(to, (void *)(size_t)from, size); return note("down"); }
CUresult cuStreamCreate(CUhandle *s, unsigned int flags) { *s = handle(); return flags == 1 ? note("stream") : 1; }
CUresult cuStreamSynchronize(CUhandle s) { return s > (CUhandle)0x7f0000000000ull ? note("sync") : 400; }
CUresult cuStreamDestroy_v2(CUhandle s) { return s > (CUhandle)0x7f0000000000ull ? note("unstream") : 400; }
CUresult cuEventCreate(CUhandle *e, unsigned int flags) { *e = handle(); return flags == 0 ? note("event") : 1; }
CUresult cuEventRecord(CUhandle e, CUhandle s) { return e > s ? note("record") : 400; }
CUresult cuEventSynchronize(CUhandle e) { return e > (CUhandle)0x7f0000000000ull ? note("eventsync") : 400; }
CUresult cuEventElapsedTime(float *ms, CUhandle a, CUhandle b) { *ms = 2.5f; return b > a ? note("elapsed") : 400; }
CUresult cuEventDestroy_v2(CUhandle e) { return e > (CUhandle)0x7f0000000000ull ? note("unevent") : 400; }
CUresult cuStreamBeginCapture_v2(CUhandle s, int mode) { return mode == 1 ? note("begin") : 1; }
CUresult cuStreamEndCapture(CUhandle s, CUhandle *g) { *g = handle(); return note("end"); }
CUresult cuGraphInstantiateWithFlags(CUhandle *x, CUhandle g, unsigned long long flags) {
  *x = handle();
  return g && !flags ? note("instantiate") : 1;
}
CUresult cuGraphLaunch(CUhandle x, CUhandle s) { return x > s ? note("launch") : 400; }
CUresult cuGraphExecDestroy(CUhandle x) { return x > (CUhandle)0x7f0000000000ull ? note("ungraph") : 400; }
CUresult cuGraphDestroy(CUhandle g) { return g > (CUhandle)0x7f0000000000ull ? note("undefinition") : 400; }
