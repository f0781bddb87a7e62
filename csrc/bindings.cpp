// cifarfast._C: registers the functions, nothing else. Pointers travel as integers, so any torch version will do.
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "augment_cpu.h"
#ifdef CIFARFAST_WITH_CUDA
#include "augment_cuda.h"
#endif

namespace py = pybind11;
using cifarfast::Job;

namespace {

template <class T>
void pointer(py::class_<Job>& job, const char* name, T* Job::*member) {
  job.def_property(
      name, [member](const Job& self) { return reinterpret_cast<uintptr_t>(self.*member); },
      [member](Job& self, uintptr_t address) { self.*member = reinterpret_cast<T*>(address); });
}

void register_job(py::module_& module) {
  py::class_<Job> job(module, "Job");
  job.def(py::init([] { return Job{}; })).def(py::init<const Job&>());
  pointer(job, "images", &Job::images);
  pointer(job, "labels", &Job::labels);
  pointer(job, "indices", &Job::indices);
  pointer(job, "batch_key", &Job::batch_key);
  pointer(job, "epoch", &Job::epoch);
  pointer(job, "pool", &Job::pool);
  pointer(job, "rows", &Job::rows);
  pointer(job, "policy", &Job::policy);
  pointer(job, "settings", &Job::settings);
  pointer(job, "quantiles", &Job::quantiles);
  pointer(job, "scale_bias", &Job::scale_bias);
  pointer(job, "out", &Job::out);
  pointer(job, "labels_a", &Job::labels_a);
  pointer(job, "labels_b", &Job::labels_b);
  pointer(job, "lam", &Job::lam);
  pointer(job, "bad_index", &Job::bad_index);
  pointer(job, "scratch", &Job::scratch);
  job.def_readwrite("count", &Job::count).def_readwrite("batch", &Job::batch).def_readwrite("seed", &Job::seed);
  job.def_readwrite("pool_size", &Job::pool_size).def_readwrite("height", &Job::height);
  job.def_readwrite("width", &Job::width).def_readwrite("channels", &Job::channels);
  job.def_readwrite("row_count", &Job::row_count).def_readwrite("step_count", &Job::step_count);
  job.def_readwrite("cutout_length", &Job::cutout_length).def_readwrite("cutout_count", &Job::cutout_count);
  job.def_readwrite("mixes", &Job::mixes).def_readwrite("mix_per_batch", &Job::mix_per_batch);
  job.def_readwrite("staged", &Job::staged).def_readwrite("augmented_copy", &Job::augmented_copy);
  job.def_readwrite("out_height", &Job::out_height);
  job.def_readwrite("out_width", &Job::out_width).def_readwrite("out_channels", &Job::out_channels);
  job.def_readwrite("channels_last", &Job::channels_last).def_readwrite("dtype", &Job::dtype);
  job.def_readwrite("nearest_resize", &Job::nearest_resize);
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.attr("source_hash") = CIFARFAST_SOURCE_HASH;
  register_job(module);
  module.def("augment_cpu", &cifarfast::augment_cpu, py::arg("job"), py::arg("threads"),
             py::call_guard<py::gil_scoped_release>());
  module.def("philox_4x32", [](uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
    const cifarfast::Words words = cifarfast::philox_4x32(key, c0, c1, c2, c3);
    return py::make_tuple(words.word[0], words.word[1], words.word[2], words.word[3]);
  });
#ifdef CIFARFAST_WITH_CUDA
  module.attr("with_cuda") = true;
  module.def("augment_cuda_scratch", &cifarfast::augment_cuda_scratch, py::arg("job"));
  module.def(
      "augment_cuda",
      [](const Job& job, uintptr_t stream) {
        const std::string error = cifarfast::augment_cuda(job, stream);
        if (!error.empty()) throw std::runtime_error("augment_cuda: " + error);
      },
      py::arg("job"), py::arg("stream"), py::call_guard<py::gil_scoped_release>());
#else
  module.attr("with_cuda") = false;
#endif
}
