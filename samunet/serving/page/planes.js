"use strict";
// Three planes and 3D as radiologists see them: in the page that annotates, and in the file that shows results.

async function planes(canvas) {
  const nv = new niivue.Niivue({ dragAndDropEnabled: false, isRadiologicalConvention: true, multiplanarShowRender: 1, multiplanarEqualSize: false, backColor: [0.086, 0.094, 0.11, 1], crosshairColor: [0.34, 0.71, 0.91, 0.7], crosshairWidth: 0.4, show3Dcrosshair: true, logLevel: "error", clipPlaneHotKey: "", viewModeHotKey: "", cycleClipPlaneHotKey: "", isNearestInterpolation: false, fontColor: [1, 0.85, 0.4, 1] });
  await nv.attachTo(canvas);
  nv.setMultiplanarLayout(2);
  nv.setMultiplanarPadPixels?.(4);
  nv.setShowAllOrientationMarkers(true);
  nv.setSliceType(nv.sliceTypeMultiplanar);
  return nv;
}
