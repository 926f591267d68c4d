// What the pages use of Apache ECharts; everything else is left out of the bundle.
import { init, use } from "echarts/core";
import { BarChart, HeatmapChart, LineChart, TreemapChart } from "echarts/charts";
import { GridComponent, LegendComponent, TooltipComponent, VisualMapContinuousComponent } from "echarts/components";
import { CanvasRenderer } from "echarts/renderers";

use([
  BarChart, HeatmapChart, LineChart, TreemapChart,
  GridComponent, LegendComponent, TooltipComponent, VisualMapContinuousComponent,
  CanvasRenderer,
]);

export { init };
