"""From a checkpoint to engine files. The parent process never imports torch; a limited child does.

Stages, in the order a conversion calls them (every error is a `ConversionError` class of serving.errors):

    child.run_child(ChildJob(...), Limits(...), progress=...) -> ChildReport
        in `job.folder`: model.raw.onnx, reference.npz (eager outputs, one entry a sample), training.npz (training-side
        pixels and tensors), report.json. `report.load` is the strict load's LoadReport.
    onnx_checked.checked_onnx(raw, model.onnx, spec) -> OnnxReport
        S3 safety, slim, full check, shapes, free batch, no unfolded BatchNormalization; module paths kept on each node.
    precision.half_precision(model.onnx, model.fp16.onnx, samples, spec) -> PrecisionReport
        FP16 in the graph with FP32 inputs and outputs; what stayed FP32 and why.
    precision.run_fp16_emulated(model.fp16.onnx, inputs) -> outputs
        each node's output rounded to half: evidence for the row onnx_fp16 without a GPU.
    engine_from_onnx.openvino_from_onnx(model.onnx, folder) -> Path          engine.openvino.xml beside its .bin
    tensorrt_build.tensorrt_from_onnx(model.fp16.onnx, model.onnx, folder, spec, progress=...) -> TensorRtReport
        TensorRT-RTX (and TensorRT where a GPU and the library exist), dtypes read back from the parsed network.
    check.check_model(spec_path) -> CheckReport                              without weights

Samples travel as npz files without pickles: arrays.save_samples / load_samples, one dict of arrays a sample, no batch
axis. onnx_safety.check_file(path) is the gate every foreign ONNX file passes before a runtime opens it.
"""
