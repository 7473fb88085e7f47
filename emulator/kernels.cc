// The emulated device's kernels: for the ops and types, and with the arguments in the computer's own memory, for which
// the real plugin registers some (directml_kernels.pbtxt). Each runs TensorFlow's CPU kernel of its op, and counts how
// often it ran and how often the plugin would have compiled a DirectML operator for it, which costs far more.
//
//   DMLEMU_FAULT=MatMul:1.001  multiplies the first float32 output of that op; several are separated by ';'
//
// Source of the rules for compiling: microsoft/tensorflow-directml-plugin 0.4.0, tfdml/core/dml_kernel_key.cc,
// tfdml/kernels/*.cc.

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <sstream>
#include <string>
#include <unordered_set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "google/protobuf/text_format.h"
#include "tensorflow/core/framework/kernel_def.pb.h"
#include "tensorflow/core/framework/node_properties.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace tensorflow {
namespace {

// ---------------------------------------------------------------------------------------------------- counting
struct Count {
  long long runs = 0, compilations = 0;
  std::unordered_set<std::string> compiled;  // the keys of the operators that are compiled already
};

// op -> count. Never destroyed, as threads of TensorFlow may outlive this library's variables.
auto& counts = *new std::map<std::string, Count>;
auto& counts_mutex = *new std::mutex;

enum class Compiles { kNever, kOncePerKey, kAlways };

// When the plugin compiles an operator for this op.
Compiles CompilesWhen(const std::string& op) {
  // These are written without DirectML: they hand a buffer on, copy it, or compute a few numbers on the CPU.
  static const auto& never = *new std::set<std::string>{
      "AssignVariableOp", "DeepCopy", "StatelessRandomGetAlg", "StatelessRandomGetKeyCounter",
      "StatelessRandomGetKeyCounterAlg"};
  // These ask not to be kept (DmlKernelCachePolicy::Never), as do all ResourceScatter, or build one in each call.
  static const auto& always = *new std::set<std::string>{
      "AssignAddVariableOp", "AssignSubVariableOp", "RandomStandardNormal", "RandomUniform", "RandomUniformInt",
      "ResourceGather", "ResourceStridedSliceAssign", "RngReadAndSkip", "RngSkip"};
  if (never.count(op)) return Compiles::kNever;
  if (always.count(op) || absl::StartsWith(op, "ResourceScatter")) return Compiles::kAlways;
  return Compiles::kOncePerKey;
}

// The plugin keeps operators by attributes, by the inputs' types and shapes and, for inputs in the computer's memory,
// by their values: so a number there that changes from step to step makes it compile in every step.
std::string AttributesKey(const NodeDef& node) {
  std::map<std::string, std::string> sorted;  // a protobuf map has no order of its own
  for (const auto& [name, value] : node.attr()) {
    if (name[0] != '_') sorted[name] = value.ShortDebugString();
  }
  std::string key;
  for (const auto& [name, value] : sorted) key += name + "=" + value + ";";
  return key;
}

std::string InputsKey(OpKernelContext* context, const std::string& op) {
  std::string key;
  for (int i = 0; i < context->num_inputs(); ++i) {
    const bool power_of_beta = op == "ResourceApplyAdam" && (i == 3 || i == 4);  // the one exception the plugin makes
    if (context->input_dtype(i) == DT_RESOURCE || context->input_is_ref(i) || !context->has_input(i) || power_of_beta) {
      continue;
    }
    const Tensor& input = context->input(i);
    key += "|" + DataTypeString(input.dtype()) + input.shape().DebugString();
    if (context->input_memory_type(i) == HOST_MEMORY && DataTypeCanUseMemcpy(input.dtype())) {
      key += std::string(input.tensor_data());
    }
  }
  return key;
}

// ---------------------------------------------------------------------------------------------------- faults
using Faults = std::map<std::string, float>;  // op -> factor

Faults ReadFaults() {
  const char* text = std::getenv("DMLEMU_FAULT");
  std::istringstream stream(text ? text : "");
  Faults faults;
  for (std::string fault; std::getline(stream, fault, ';');) {
    const size_t colon = fault.find(':');
    float factor;
    if (colon == std::string::npos || !absl::SimpleAtof(fault.substr(colon + 1), &factor)) {
      LOG(FATAL) << "DMLEMU_FAULT has '" << fault << "' instead of an op and a factor, such as MatMul:1.001";
    }
    faults[fault.substr(0, colon)] = factor;
  }
  return faults;
}

const Faults& AllFaults() {
  static const Faults& faults = *new Faults(ReadFaults());
  return faults;
}

// ---------------------------------------------------------------------------------------------------- the kernel
class EmulatedKernel : public OpKernel {
 public:
  explicit EmulatedKernel(OpKernelConstruction* construction)
      : OpKernel(construction), attributes_(AttributesKey(def())), compiles_(CompilesWhen(type_string())) {
    if (ComputesOnHost()) compiles_ = Compiles::kNever;
    const auto fault = AllFaults().find(type_string());
    if (fault != AllFaults().end()) factor_ = fault->second;

    std::shared_ptr<const NodeProperties> properties;
    OP_REQUIRES_OK(construction, NodeProperties::CreateFromNodeDef(def(), OpRegistry::Global(), &properties));
    DeviceBase* device = construction->device();
    OpKernel* kernel = nullptr;
    OP_REQUIRES_OK(construction, CreateOpKernel(DEVICE_CPU, device, device->GetAllocator(AllocatorAttributes()),
                                                construction->function_library(), construction->resource_manager(),
                                                properties, construction->graph_def_version(), &kernel));
    cpu_kernel_.reset(kernel);
  }

  void Compute(OpKernelContext* context) override {
    CountRun(context);
    cpu_kernel_->Compute(context);
    if (factor_ != 1) ApplyFault(context);
  }

 private:
  // An op without an output changes a variable on the device.
  bool ComputesOnHost() const {
    const MemoryTypeVector& outputs = output_memory_types();
    return !outputs.empty() && std::count(outputs.begin(), outputs.end(), DEVICE_MEMORY) == 0;
  }

  void CountRun(OpKernelContext* context) {
    const bool by_key = compiles_ == Compiles::kOncePerKey;
    std::string key = by_key ? attributes_ + InputsKey(context, type_string()) : "";
    std::lock_guard<std::mutex> lock(counts_mutex);
    Count& count = counts[type_string()];
    ++count.runs;
    const bool is_new = by_key && count.compiled.insert(std::move(key)).second;
    if (is_new || compiles_ == Compiles::kAlways) ++count.compilations;
  }

  void ApplyFault(OpKernelContext* context) {
    for (int i = 0; i < context->num_outputs(); ++i) {
      if (context->expected_output_dtype(i) != DT_FLOAT || !context->mutable_output(i)) continue;
      auto values = context->mutable_output(i)->flat<float>();
      for (int64_t k = 0; k < values.size(); ++k) values(k) *= factor_;
      return;
    }
  }

  const std::string attributes_;
  Compiles compiles_;
  float factor_ = 1;
  std::unique_ptr<OpKernel> cpu_kernel_;
};

// ---------------------------------------------------------------------------------------------------- the list
// Lies beside this library, wherever the environment has been moved to.
KernelList ReadKernelList() {
  Dl_info library;
  dladdr(reinterpret_cast<void*>(&ReadKernelList), &library);
  const std::string file = library.dli_fname;
  const std::string list = file.substr(0, file.rfind('/') + 1) + "directml_kernels.pbtxt";
  std::ifstream stream(list);
  std::ostringstream text;
  text << stream.rdbuf();
  KernelList kernels;
  if (!stream || !google::protobuf::TextFormat::ParseFromString(text.str(), &kernels)) {
    LOG(FATAL) << list << " is missing or no list of kernels: bash emulator/build.sh";
  }
  return kernels;
}

}  // namespace
}  // namespace tensorflow

// ---------------------------------------------------------------------------------------------------- the interface
// {"MatMul": [runs, compilations], ...} in JSON; the text lives until the next call.
extern "C" const char* dmlemu_kernels() {
  static std::string& json = *new std::string;
  std::lock_guard<std::mutex> lock(tensorflow::counts_mutex);
  json.clear();
  for (const auto& [op, count] : tensorflow::counts) {
    json += (json.empty() ? "{\"" : ", \"") + op + "\": [" + std::to_string(count.runs) + ", " +
            std::to_string(count.compilations) + "]";
  }
  json += json.empty() ? "{}" : "}";
  return json.c_str();
}

// Starts counting anew; what is compiled stays compiled.
extern "C" void dmlemu_reset_kernels() {
  std::lock_guard<std::mutex> lock(tensorflow::counts_mutex);
  for (auto& [op, count] : tensorflow::counts) count.runs = count.compilations = 0;
}

// TensorFlow calls this when it is imported.
extern "C" void TF_InitKernel() {
  using namespace tensorflow;
  std::set<std::string> ops;
  const KernelList kernels = ReadKernelList();
  for (const KernelDef& kernel : kernels.kernel()) {
    ops.insert(kernel.op());
    kernel_factory::OpKernelRegistrar(
        new KernelDef(kernel), "EmulatedKernel",
        [](OpKernelConstruction* construction) -> OpKernel* { return new EmulatedKernel(construction); });
  }
  for (const auto& [op, factor] : AllFaults()) {
    if (!ops.count(op)) LOG(FATAL) << "DMLEMU_FAULT names " << op << ", an op that DirectML has no kernel for";
  }
}
