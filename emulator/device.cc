// The emulated DirectML device: what TensorFlow calls a PluggableDevice, named as the real plugin names its own
// (platform DML, type GPU), with its memory in the computer's own. It computes nothing: kernels.cc does.
//
// Which adapters there are:
//   DMLEMU_DEVICES       their names, separated by ';' (one adapter when unset, none when empty)
//   DML_VISIBLE_DEVICES  the plugin's own variable, by the plugin's own rules
//
// Sources: tensorflow/c/experimental/stream_executor/stream_executor.h and grappler/grappler.h (the interface);
// microsoft/tensorflow-directml-plugin 0.4.0, tfdml/core: dml_adapter_impl.cc (the rules), dml_device_cache.cc (the
// log); tfdml/plugin/plugin_device.cc (what a device must do and what not).

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "tensorflow/c/experimental/grappler/grappler.h"
#include "tensorflow/c/experimental/stream_executor/stream_executor.h"
#include "tensorflow/c/logging.h"
#include "tensorflow/c/tf_status.h"

// Copies between the computer's memory and the device's so far; counters.py reads and resets them.
extern "C" {
std::atomic<long long> dmlemu_device_to_host{0};
std::atomic<long long> dmlemu_host_to_device{0};
}

namespace {

// ---------------------------------------------------------------------------------------------------- adapters
struct Adapter {
  std::string name;
  uint32_t vendor_id, device_id;
  uint32_t driver[4];
};

// Set when the plugin is loaded; never destroyed, as threads of TensorFlow may outlive this library's variables.
auto& visible_adapters = *new std::vector<Adapter>;

std::vector<std::string> Split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

uint32_t VendorOf(const std::string& name) {
  const auto has = [&name](const char* word) { return name.find(word) != std::string::npos; };
  return has("NVIDIA") ? 0x10de : has("AMD") ? 0x1002 : has("Intel") ? 0x8086 : has("Qualcomm") ? 0x4d4f4351 : 0x1af4;
}

// All adapters of the pretended machine. Each has its own device id and driver version, so none can pass for another.
std::vector<Adapter> AllAdapters() {
  const char* names = std::getenv("DMLEMU_DEVICES");
  std::vector<Adapter> adapters;
  for (const std::string& name : Split(names ? names : "Emulated adapter", ';')) {
    const uint32_t number = adapters.size();
    adapters.push_back({name, VendorOf(name), 0x1001 + number, {31, 0, 101, 4001 + number}});
  }
  return adapters;
}

// The adapters that DML_VISIBLE_DEVICES names, in its order. The plugin's rules, kept here to the letter: it stops
// without a word at the first entry that is no number or is too large, and takes the same adapter twice.
std::vector<Adapter> VisibleAdapters(const std::vector<Adapter>& all) {
  const char* chosen = std::getenv("DML_VISIBLE_DEVICES");
  if (!chosen || !*chosen) return all;
  std::vector<Adapter> visible;
  for (const std::string& token : Split(chosen, ',')) {
    uint32_t number;
    if (!absl::SimpleAtoi(token, &number) || number >= all.size()) break;
    visible.push_back(all[number]);
  }
  return visible;
}

void LogAdapters(const std::vector<Adapter>& adapters) {
  const auto count = [](size_t number) { return static_cast<unsigned long long>(number); };
  TF_Log(TF_INFO, "DirectML device enumeration: found %llu compatible adapters.", count(adapters.size()));
  for (size_t i = 0; i < adapters.size(); ++i) {
    const Adapter& adapter = adapters[i];
    const uint32_t* driver = adapter.driver;
    TF_VLog(1, "DirectML adapter %llu: %s", count(i), adapter.name.c_str());
    TF_VLog(1, "    VendorID: %#010x", adapter.vendor_id);
    TF_VLog(1, "    DeviceID: %#010x", adapter.device_id);
    TF_VLog(1, "    Driver: %u.%u.%u.%u", driver[0], driver[1], driver[2], driver[3]);
    TF_VLog(1, "    IsComputeOnly: %s", "false");
  }
}

void CreateDevice(const SP_Platform*, SE_CreateDeviceParams* params, TF_Status*) {
  static auto& logged = *new std::set<int32_t>;  // the plugin makes a device, and logs it, once, however often asked
  const Adapter& adapter = visible_adapters[params->ordinal];
  if (logged.insert(params->ordinal).second) {
    TF_Log(TF_INFO, "DirectML: creating device on adapter %u (%s)", static_cast<unsigned>(params->ordinal),
           adapter.name.c_str());
  }
  params->device->struct_size = SP_DEVICE_STRUCT_SIZE;
  params->device->ordinal = params->ordinal;
  params->device->hardware_name = adapter.name.c_str();
  params->device->device_vendor = "emulated";
}

// ---------------------------------------------------------------------------------------------------- memory
constexpr uint64_t kAlignment = 64;            // the CPU kernels that will compute on it ask for it
constexpr int64_t kMemory = int64_t{8} << 30;  // bytes TensorFlow may take; it takes them as it needs them

void* Allocate(uint64_t size) {
  return std::aligned_alloc(kAlignment, (size + kAlignment - 1) / kAlignment * kAlignment);
}

// The copies. As in the plugin, each is done when the call returns, and one of no bytes is none at all.
void ToHost(void* host, const SP_DeviceMemoryBase* device, uint64_t size) {
  if (size == 0) return;
  ++dmlemu_device_to_host;
  std::memcpy(host, device->opaque, size);
}

void ToDevice(SP_DeviceMemoryBase* device, const void* host, uint64_t size) {
  if (size == 0) return;
  ++dmlemu_host_to_device;
  std::memcpy(device->opaque, host, size);
}

void WithinDevice(SP_DeviceMemoryBase* to, const SP_DeviceMemoryBase* from, uint64_t size) {
  std::memcpy(to->opaque, from->opaque, size);
}

// ---------------------------------------------------------------------------------------------------- the interface
// Fills in all that TensorFlow may call. Work is done as soon as it is asked for, so streams, events and timers, which
// order work and wait for it, are empty; a status that is left alone means: no error. Callbacks the plugin refuses too.
void CreateStreamExecutor(const SP_Platform*, SE_CreateStreamExecutorParams* params, TF_Status*) {
  using Device = const SP_Device*;
  using Memory = SP_DeviceMemoryBase;
  const auto nothing = [](auto...) {};
  const auto none = [](Device, auto* handle, TF_Status*) { *handle = nullptr; };

  SP_StreamExecutor* executor = params->stream_executor;
  executor->struct_size = SP_STREAMEXECUTOR_STRUCT_SIZE;

  executor->allocate = [](Device, uint64_t size, int64_t, Memory* memory) {
    memory->struct_size = SP_DEVICE_MEMORY_BASE_STRUCT_SIZE;
    memory->opaque = Allocate(size);
    memory->size = size;
  };
  executor->deallocate = [](Device, Memory* memory) { std::free(memory->opaque); };
  executor->host_memory_allocate = [](Device, uint64_t size) { return Allocate(size); };
  executor->host_memory_deallocate = [](Device, void* memory) { std::free(memory); };
  executor->get_allocator_stats = [](Device, SP_AllocatorStats*) -> TF_Bool { return false; };
  executor->device_memory_usage = [](Device, int64_t* free, int64_t* total) -> TF_Bool {
    *free = *total = kMemory;
    return true;
  };

  executor->memcpy_dtoh = [](Device, SP_Stream, void* host, const Memory* device, uint64_t size, TF_Status*) {
    ToHost(host, device, size);
  };
  executor->memcpy_htod = [](Device, SP_Stream, Memory* device, const void* host, uint64_t size, TF_Status*) {
    ToDevice(device, host, size);
  };
  executor->memcpy_dtod = [](Device, SP_Stream, Memory* to, const Memory* from, uint64_t size, TF_Status*) {
    WithinDevice(to, from, size);
  };
  executor->sync_memcpy_dtoh = [](Device, void* host, const Memory* device, uint64_t size, TF_Status*) {
    ToHost(host, device, size);
  };
  executor->sync_memcpy_htod = [](Device, Memory* device, const void* host, uint64_t size, TF_Status*) {
    ToDevice(device, host, size);
  };
  executor->sync_memcpy_dtod = [](Device, Memory* to, const Memory* from, uint64_t size, TF_Status*) {
    WithinDevice(to, from, size);
  };
  executor->mem_zero = [](Device, SP_Stream, Memory* memory, uint64_t size, TF_Status*) {
    std::memset(memory->opaque, 0, size);
  };
  executor->memset = [](Device, SP_Stream, Memory* memory, uint8_t pattern, uint64_t size, TF_Status*) {
    std::memset(memory->opaque, pattern, size);
  };
  executor->memset32 = [](Device, SP_Stream, Memory* memory, uint32_t pattern, uint64_t size, TF_Status*) {
    std::fill_n(static_cast<uint32_t*>(memory->opaque), size / sizeof pattern, pattern);
  };

  executor->create_stream = none;
  executor->destroy_stream = nothing;
  executor->create_stream_dependency = nothing;
  executor->get_stream_status = nothing;
  executor->create_event = none;
  executor->destroy_event = nothing;
  executor->get_event_status = [](Device, SP_Event) { return SE_EVENT_COMPLETE; };
  executor->record_event = nothing;
  executor->wait_for_event = nothing;
  executor->create_timer = none;
  executor->destroy_timer = nothing;
  executor->start_timer = nothing;
  executor->stop_timer = nothing;
  executor->block_host_for_event = nothing;
  executor->block_host_until_done = nothing;
  executor->synchronize_all_activity = nothing;
  executor->host_callback = [](Device, SP_Stream, SE_StatusCallbackFn, void*) -> TF_Bool { return false; };
}

}  // namespace

// TensorFlow calls this when it is imported; so that is when the environment variables are read.
extern "C" void SE_InitPlugin(SE_PlatformRegistrationParams* params, TF_Status*) {
  visible_adapters = VisibleAdapters(AllAdapters());
  LogAdapters(visible_adapters);

  const auto nothing = [](auto...) {};
  SP_Platform* platform = params->platform;
  platform->struct_size = SP_PLATFORM_STRUCT_SIZE;
  platform->name = "DML";
  platform->type = "GPU";
  platform->supports_unified_memory = false;
  platform->force_memory_growth = true;
  platform->use_bfc_allocator = true;

  SP_PlatformFns* functions = params->platform_fns;
  functions->get_device_count = [](const SP_Platform*, int* count, TF_Status*) { *count = visible_adapters.size(); };
  functions->create_device = CreateDevice;
  functions->destroy_device = nothing;
  functions->create_device_fns = [](const SP_Platform*, SE_CreateDeviceFnsParams* params, TF_Status*) {
    params->device_fns->struct_size = SP_DEVICE_FNS_STRUCT_SIZE;
  };
  functions->destroy_device_fns = nothing;
  functions->create_stream_executor = CreateStreamExecutor;
  functions->destroy_stream_executor = nothing;
  functions->create_timer_fns = [](const SP_Platform*, SP_TimerFns* timer, TF_Status*) {
    timer->struct_size = SP_TIMER_FNS_STRUCT_SIZE;
    timer->nanoseconds = [](SP_Timer) -> uint64_t { return 0; };
  };
  functions->destroy_timer_fns = nothing;
  params->destroy_platform = nothing;
  params->destroy_platform_fns = nothing;
}

// TensorFlow's layout optimizer would hand over convolutions with the channels first, for which its CPU kernels, which
// compute here, are not made. It can be turned off only by a device that has a graph optimizer; this one does nothing.
extern "C" void TF_InitGraph(TP_OptimizerRegistrationParams* params, TF_Status*) {
  params->struct_size = TP_OPTIMIZER_REGISTRATION_PARAMS_STRUCT_SIZE;
  params->device_type = "GPU";
  params->optimizer_configs->struct_size = TP_OPTIMIZER_CONFIGS_STRUCT_SIZE;
  params->optimizer_configs->layout_optimizer = TF_TriState_Off;
  params->optimizer->struct_size = TP_OPTIMIZER_STRUCT_SIZE;
  params->optimizer->optimize_func = [](void*, const TF_Buffer* graph, const TF_GrapplerItem*, TF_Buffer* same,
                                        TF_Status*) {
    void* copy = std::malloc(graph->length);
    std::memcpy(copy, graph->data, graph->length);
    *same = {copy, graph->length, [](void* data, size_t) { std::free(data); }};
  };
}
