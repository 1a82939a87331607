// The picture of W + s B A: a layer's real matrices.
import type { VNode } from "preact";
import { chosenMix, layer, opened, picture } from "../state/store.ts";
import { count, decimal, percent } from "../ui/format.ts";
import { MatrixCanvas } from "../ui/picture.tsx";

export function See(): VNode {
  const current = picture.value;
  const layers = opened.value?.layers ?? [];
  return (
    <section class="panel" id="see" aria-labelledby="see-title">
      <header>
        <p class="number">1</p>
        <h2 id="see-title">What an adapter adds</h2>
        <p class="lede">
          A layer multiplies by a big matrix W, which stays as it is. The adapter is two thin ones, B and A; their
          product is as large as W, and is added to it. These are the real numbers:{" "}
          <span class="key key-negative">below zero</span> <span class="key key-accent">above</span>.
        </p>
      </header>
      <fieldset class="segments">
        <legend class="visually-hidden">Layer to show</legend>
        {layers.map(({ path, inFeatures, outFeatures }) => (
          <label key={path}>
            <input
              type="radio"
              name="layer"
              checked={layer.value === path}
              onChange={() => {
                layer.value = path;
              }}
            />
            <span>
              {path}{" "}
              <small>
                {outFeatures} × {inFeatures}
              </small>
            </span>
          </label>
        ))}
      </fieldset>
      {current !== null && (
        <>
          <div class="equation">
            <figure>
              <MatrixCanvas
                picture={current.w}
                label={`The frozen weights of ${current.path}, ${current.outFeatures} by ${current.inFeatures}`}
              />
              <figcaption>
                <b>W</b> frozen
              </figcaption>
            </figure>
            <span class="sign">+</span>
            <span class="sign scale">s&thinsp;=&thinsp;{decimal(current.scale)} ×</span>
            {current.r === 0 ? (
              <p class="untouched">{chosenMix.value.parts.length === 0 ? "no adapter" : "this layer is left alone"}</p>
            ) : (
              <figure class="product">
                <div class="factors">
                  <MatrixCanvas
                    picture={current.b}
                    class="strip-b"
                    label={`B, ${current.outFeatures} by ${current.r}`}
                  />
                  <MatrixCanvas
                    picture={current.a}
                    class="strip-a"
                    label={`A, ${current.r} by ${current.inFeatures}`}
                  />
                  <MatrixCanvas
                    picture={current.update}
                    label={`The update s B A, as large as W but of rank ${current.r}`}
                    class="matrix faint"
                  />
                </div>
                <figcaption>
                  <b>B</b> standing, <b>A</b> lying: {count(current.r * (current.outFeatures + current.inFeatures))}{" "}
                  numbers
                </figcaption>
              </figure>
            )}
            <span class="sign">=</span>
            <figure>
              <MatrixCanvas picture={current.sum} label="The sum, which the digit meets" />
              <figcaption>
                <b>W + s B A</b>
              </figcaption>
            </figure>
          </div>
          <p class="formula">
            <var>W′</var> = <var>W</var> + <var>s</var> <var>B</var> <var>A</var>
            <span>
              ‖W‖ = {decimal(current.norms.w)}, ‖s B A‖ = {decimal(current.norms.update)}: a change of{" "}
              {percent(current.norms.update / current.norms.w, 1)}
            </span>
          </p>
        </>
      )}
    </section>
  );
}
