export { bfloat16ToFloat32, float16ToFloat32 } from "../onnx/half.ts";
